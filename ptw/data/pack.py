"""Which samples share a row, so that hardly a token of it is padding?"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ptw.data.sample import Label, Sample

IGNORED = -100


@dataclass(frozen=True)
class PackedRow:
    """`window` ids: documents of these `lengths` from the first id on, then padding.

    `targets` are already shifted: `targets[i]` follows `ids[i]` in its document, or is -100. `samples` are
    the ids of the samples, `documents` how many each of them has: one, of preferences two, of pairs two and
    its negatives. `labels` are theirs, where they have any.
    """

    ids: np.ndarray
    targets: np.ndarray
    lengths: tuple[int, ...]
    samples: tuple[str, ...]
    epoch: int = 0
    labels: tuple[Label, ...] = ()
    documents: tuple[int, ...] = ()


@dataclass(frozen=True)
class Key:
    """Which sample it is: of which part of a mix, of the how manieth row read of it, which piece of that."""

    part: int
    row: int
    piece: int = 0


class Pool:
    """The open samples: read ahead, in no row yet. Memory is bounded by whoever fills it."""

    def __init__(self) -> None:
        self._open: dict[Key, tuple[int, int, Sample]] = {}  # in order of age: epoch, age and sample
        self._by_length: dict[int, list[tuple[int, int, Key]]] = {}  # for each epoch: length, age and key
        self._added = 0
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def keys(self) -> tuple[tuple[int, tuple[Key, ...]], ...]:
        """Those of each epoch, the oldest first."""
        by_epoch: dict[int, list[Key]] = {}
        for key, (epoch, _, _) in self._open.items():
            by_epoch.setdefault(epoch, []).append(key)
        return tuple((epoch, tuple(keys)) for epoch, keys in by_epoch.items())

    @property
    def oldest_epoch(self) -> int | None:
        return next((epoch for epoch, _, _ in self._open.values()), None)

    def add(self, key: Key, epoch: int, sample: Sample) -> None:
        self._open[key] = epoch, self._added, sample
        insort(self._by_length.setdefault(epoch, []), (len(sample.ids), self._added, key))
        self._added += 1
        self.tokens += len(sample.ids)

    def take(self, window: int) -> list[tuple[Key, Sample]]:
        """The oldest sample, so that none waits for ever, and those that fill its row best.

        The oldest's epoch goes first; of the next one only what fits where nothing else does.
        """
        oldest, (epoch, _, _) = next(iter(self._open.items()))
        row = [self._pop(oldest)]
        room = window - len(row[0][1].ids)
        while room > 0:
            fitting = self._best(epoch, room, window) or self._best(epoch + 1, room, window)
            if not fitting:
                break
            row += [self._pop(key) for key in fitting]
            room = window - sum(len(sample.ids) for _, sample in row)
        return row

    def _best(self, epoch: int, room: int, window: int) -> tuple[Key, ...]:
        """The longest sample that fits; two shorter ones where it would leave a gap that they fill better."""
        largest = self._largest(epoch, room)
        if largest is None:
            return ()
        length = len(self._open[largest][2].ids)
        fills = length == room or self._largest(epoch, room - length) is not None
        # where samples are long, short ones are worth more as the filling of later rows
        if fills or self.tokens * 3 > window * len(self):
            return (largest,)
        return self._pair(epoch, room, longer_than=length) or (largest,)

    def _pair(self, epoch: int, room: int, longer_than: int) -> tuple[Key, ...]:
        """The two samples that together come nearest to `room` ids, if they are more than `longer_than`."""
        lengths, best = self._by_length[epoch], longer_than
        low, high = 0, len(lengths) - 1
        pair: tuple[Key, ...] = ()
        while low < high:
            together = lengths[low][0] + lengths[high][0]
            if together > room:
                high -= 1
                continue
            if together > best:
                best, pair = together, (lengths[high][2], lengths[low][2])
            low += 1
        return pair

    def _largest(self, epoch: int, room: int) -> Key | None:
        """The longest sample of at most `room` ids, of these the oldest."""
        lengths = self._by_length.get(epoch, [])
        at = bisect_right(lengths, room, key=lambda entry: entry[0])
        if at == 0:
            return None
        return lengths[bisect_left(lengths, lengths[at - 1][0], key=lambda entry: entry[0])][2]

    def _pop(self, key: Key) -> tuple[Key, Sample]:
        epoch, age, sample = self._open.pop(key)
        lengths = self._by_length[epoch]
        del lengths[bisect_left(lengths, (len(sample.ids), age, key))]
        if not lengths:
            del self._by_length[epoch]
        self.tokens -= len(sample.ids)
        return key, sample


def lay_out(samples: Sequence[Sample], window: int, pad_id: int, epoch: int = 0) -> PackedRow:
    """The samples one after the other in a row of `window` ids, and what each id is to predict."""
    ids = np.full(window, pad_id, dtype=np.int32)
    targets = np.full(window, IGNORED, dtype=np.int64)
    begin = 0
    for sample in samples:
        end = begin + len(sample.ids)
        ids[begin:end] = sample.ids
        # the first id of a document is not learnt, so that none is the target of the document before it
        targets[begin : end - 1] = np.where(sample.learn[1:], sample.ids[1:], IGNORED)
        begin = end
    assert begin <= window
    return PackedRow(
        ids,
        targets,
        tuple(length for sample in samples for length in sample.documents),
        tuple(sample.id for sample in samples),
        epoch,
        tuple(sample.label for sample in samples if sample.label is not None),
        tuple(len(sample.documents) for sample in samples),
    )
