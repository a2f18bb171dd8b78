"""What becomes of a sample that is longer than the window?"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.workspace.manifest import DatasetEntry


def fit(
    sample: Sample, dataset: DatasetEntry, window: int, bos_id: int | None
) -> tuple[Sequence[Sample], str | None]:
    """The sample's parts of at most `window` ids, and why it is refused, where it is.

    `split` keeps every id once; `truncate` the first ids (of several documents the first of each, and the ids
    that end them), of events the newest.
    PtwError: too_long = "error".
    """
    if not sample.learns:
        return (), f"leave_out = {dataset.leave_out} leaves nothing to learn"
    length = len(sample.ids)
    if length <= window:
        return (sample,), None
    if dataset.too_long == "split":
        return _split(sample, window, bos_id), None
    if dataset.too_long == "truncate":
        cut = _newest(sample, window, bos_id) if dataset.format == "event" else _first(sample, window)
        if not cut.learns:
            return (), f"the first {len(cut.ids)} of its {length} ids hold no target"
        return (cut,), None
    if dataset.too_long == "drop":
        return (), f"{length} ids are more than the window of {window}"
    choices = '"truncate", "split" or "drop"'
    if dataset.format in ("chat", "preference", "rated", "labelled", "pair"):
        choices = '"truncate" or "drop"'
    elif dataset.format == "prompt":
        choices = '"drop"'
    raise PtwError(
        f"{sample.id}: {length} ids are more than the window of {window}; widen the window, or set in "
        f"[datasets.{dataset.name}] too_long = {choices}"
    )


def _first(sample: Sample, window: int) -> Sample:
    """Of each document the first ids, and the last where it stays; a short one leaves its room to others."""
    kept = dict(enumerate(sample.documents))
    room, left = window, sorted(kept, key=lambda at: kept[at])
    for number, at in enumerate(left):
        kept[at] = min(kept[at], room // (len(left) - number))
        room -= kept[at]
    begins = [0, *np.cumsum(sample.documents)]
    keep = np.concatenate([np.arange(begins[at], begins[at] + length) for at, length in kept.items()])
    if sample.keeps_ends:
        keep[np.cumsum(list(kept.values())) - 1] = np.array(begins[1:]) - 1
    lengths = tuple(kept.values()) if sample.lengths else ()
    return replace(sample, ids=sample.ids[keep], learn=sample.learn[keep], lengths=lengths)


def _newest(sample: Sample, window: int, bos_id: int | None) -> Sample:
    """The id that begins the sequence stays, where there is one."""
    begun = int(sample.ids[0] == bos_id)
    newest = (window - begun) // sample.unit * sample.unit
    keep = np.concatenate([np.arange(begun), np.arange(len(sample.ids) - newest, len(sample.ids))])
    return replace(sample, ids=sample.ids[keep], learn=sample.learn[keep])


def _split(sample: Sample, window: int, bos_id: int | None) -> list[Sample]:
    begun = int(sample.unit > 1 and sample.ids[0] == bos_id)
    whole = (window - begun) // sample.unit * sample.unit
    ends = [*range(begun + whole, len(sample.ids), window // sample.unit * sample.unit), len(sample.ids)]
    return [
        replace(sample, id=f"{sample.id}#{part}", ids=sample.ids[begin:end], learn=sample.learn[begin:end])
        for part, (begin, end) in enumerate(pairwise([0, *ends]), start=1)
    ]
