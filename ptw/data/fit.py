"""What becomes of a sample that is longer than the window?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.workspace.manifest import DatasetEntry


def fit(
    sample: Sample, dataset: DatasetEntry, window: int, bos_id: int | None
) -> tuple[Sequence[Sample], str | None]:
    """The sample's parts of at most `window` ids, and why it is refused, where it is.

    `split` keeps every id once; `truncate` the first ids (of a pair the first of each), of events the newest.
    PtwError: too_long = "error".
    """
    if not sample.learns:
        return (), f"leave_out = {dataset.leave_out} leaves nothing to learn"
    length = len(sample.ids)
    if length <= window:
        return (sample,), None
    if dataset.too_long == "split":
        return _split(sample, window), None
    if dataset.too_long == "truncate":
        cut = _newest(sample, window, bos_id) if dataset.format == "event" else _first(sample, window)
        if not cut.learns:
            return (), f"the first {len(cut.ids)} of its {length} ids hold no target"
        return (cut,), None
    if dataset.too_long == "drop":
        return (), f"{length} ids are more than the window of {window}"
    choices = '"truncate", "split" or "drop"'
    if dataset.format in ("chat", "preference", "rated"):
        choices = '"truncate" or "drop"'
    elif dataset.format == "prompt":
        choices = '"drop"'
    raise PtwError(
        f"{sample.id}: {length} ids are more than the window of {window}; widen the window, or set in "
        f"[datasets.{dataset.name}] too_long = {choices}"
    )


def _first(sample: Sample, window: int) -> Sample:
    """The first ids of each document; a short one leaves its room to the others."""
    kept = dict(enumerate(sample.documents))
    room, left = window, sorted(kept, key=lambda at: kept[at])
    for number, at in enumerate(left):
        kept[at] = min(kept[at], room // (len(left) - number))
        room -= kept[at]
    begins = [0, *np.cumsum(sample.documents)]
    keep = np.concatenate([np.arange(begins[at], begins[at] + length) for at, length in kept.items()])
    lengths = tuple(kept.values()) if sample.lengths else ()
    return replace(sample, ids=sample.ids[keep], learn=sample.learn[keep], lengths=lengths)


def _newest(sample: Sample, window: int, bos_id: int | None) -> Sample:
    """The id that begins the sequence stays, where there is one."""
    begin = len(sample.ids) - window
    keep = np.arange(begin, len(sample.ids))
    if sample.ids[0] == bos_id:
        keep[0] = 0
    return replace(sample, ids=sample.ids[keep], learn=sample.learn[keep])


def _split(sample: Sample, window: int) -> list[Sample]:
    return [
        Sample(
            f"{sample.id}#{part}", sample.ids[begin : begin + window], sample.learn[begin : begin + window]
        )
        for part, begin in enumerate(range(0, len(sample.ids), window), start=1)
    ]
