"""What becomes of a sample that is longer than the window?"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.workspace.manifest import DatasetEntry


def fit(sample: Sample, dataset: DatasetEntry, window: int) -> tuple[Sequence[Sample], str | None]:
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
    largest = _begun(sample) + max(sample.events, default=0)
    if dataset.format == "event" and dataset.too_long in ("split", "truncate") and largest > window:
        return (), f"an event of it is {largest} ids with what begins it, more than the window of {window}"
    if dataset.too_long == "split":
        return _split(sample, window), None
    if dataset.too_long == "truncate":
        cut = _newest(sample, window) if dataset.format == "event" else _first(sample, window)
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


def _begun(sample: Sample) -> int:
    """How many ids begin a sequence of events: one, or none."""
    return len(sample.ids) - sum(sample.events)


def _newest(sample: Sample, window: int) -> Sample:
    """The id that begins the sequence stays, where there is one."""
    begun = _begun(sample)
    count = newest(sample.events, window - begun)
    events = sample.events[len(sample.events) - count :]
    keep = np.concatenate([np.arange(begun), np.arange(len(sample.ids) - sum(events), len(sample.ids))])
    return replace(sample, ids=sample.ids[keep], learn=sample.learn[keep], events=events)


def newest(lengths: Sequence[int], room: int) -> int:
    """How many events, the newest first, fit so many ids."""
    count = 0
    for length in reversed(lengths):
        if length > room:
            break
        room, count = room - length, count + 1
    return count


def _split(sample: Sample, window: int) -> list[Sample]:
    """What begins a sequence of events is in the first part."""
    if sample.events:
        whole = list(_whole(_begun(sample), sample.events, window))
    else:
        ends = [*range(window, len(sample.ids), window), len(sample.ids)]
        whole = [(begin, end, ()) for begin, end in pairwise([0, *ends])]
    return [
        replace(
            sample,
            id=f"{sample.id}#{part}",
            ids=sample.ids[begin:end],
            learn=sample.learn[begin:end],
            events=events,
        )
        for part, (begin, end, events) in enumerate(whole, start=1)
    ]


def _whole(begun: int, lengths: Sequence[int], window: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """From where to where each part lies, and the lengths of its events, as many as the window takes."""
    begin, end, held = 0, begun, list[int]()
    for length in lengths:
        if held and end + length - begin > window:
            yield begin, end, tuple(held)
            begin, held = end, []
        end += length
        held.append(length)
    yield begin, end, tuple(held)
