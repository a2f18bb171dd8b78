"""Which packed rows follow from a state?"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from ptw.data.mix import turn
from ptw.data.pack import Key, PackedRow, Pool, lay_out
from ptw.data.reader import Reader, Reading, Source
from ptw.data.sample import Sample
from ptw.data.state import PartState, State

FIRST_WINDOWS = 16  # packed before the first row, and open beside them; two more with each row, up to:
LOOK_AHEAD_SAMPLES = 2048
LOOK_AHEAD_WINDOWS = 256
READY_ROWS = 256  # packed ahead, handed out at random: packing itself goes from long samples to short
READY_TOKENS = 2**19  # of them, to bound memory where windows are long


def produce(source: Source, state: State) -> Iterator[tuple[PackedRow, State]]:
    """Every further row, with the state after it; endless where `epochs` is None. A fault is raised."""
    for step in Producer(source, state).steps():
        if not isinstance(step, Reading):
            yield step
        elif step.fault is not None:
            raise step.fault


@dataclass(frozen=True)
class _ReadyRow:
    """A row that is packed, and waits for its turn."""

    epoch: int
    taken: tuple[tuple[Key, Sample], ...]


class Producer:
    """Reads and packs step by step, so that one may look on, go on after a fault, or have read enough."""

    def __init__(self, source: Source, state: State) -> None:
        self._source = source
        self._state = state
        self._pool = Pool()
        self._ready: list[_ReadyRow] = []
        self._reads = True
        self._readers = [Reader(source, at, part) for at, part in enumerate(state.parts)]

    @property
    def parts(self) -> tuple[PartState, ...]:
        """What was read, handed out and refused of each part until now."""
        return tuple(reader.state for reader in self._readers)

    def read_no_more(self) -> None:
        """What was read is packed and handed out, and that is all."""
        self._reads = False

    def steps(self) -> Iterator[Reading | tuple[PackedRow, State]]:
        """Every row that is read, and, in between, every row that is packed, with the state after it."""
        self._reopen()
        pad_id = self._source.tokenizer.pad_id or 0
        while True:
            yield from self._pack()
            if not self._ready:
                return
            draw = random.Random(f"{self._source.seed} row {self._state.rows_out}")
            ready = self._ready.pop(draw.randrange(len(self._ready)))
            for key, sample in ready.taken:
                self._readers[key.part].hand_out(key, sample)
            samples = [sample for _, sample in ready.taken]
            row = lay_out(samples, self._source.window, pad_id, ready.epoch)
            self._state = self._after(row)
            yield row, self._state

    @property
    def _windows_ahead(self) -> int:
        """A model that waits for its first step is not kept waiting for the best packing."""
        return FIRST_WINDOWS + 2 * self._state.rows_out

    @property
    def _epoch(self) -> int:
        """The epoch that is read: that of the slowest part. The quicker ones begin again meanwhile."""
        return min(reader.state.epoch for reader in self._readers)

    def _pack(self) -> Iterator[Reading]:
        """Make rows ready, of one epoch at a time."""
        most = min(READY_ROWS, READY_TOKENS // self._source.window, self._windows_ahead)
        while len(self._ready) < (max(most, 1) if self._source.shuffle else 1):
            yield from self._fill()
            epoch = self._pool.oldest_epoch
            if epoch is None or (self._ready and self._ready[0].epoch != epoch):
                return
            window = self._source.window if self._source.packs else 0  # the oldest is always taken
            self._ready.append(_ReadyRow(epoch, tuple(self._pool.take(window))))

    def _reopen(self) -> None:
        wanted = {key for _, keys in (*self._state.ready, *self._state.open) for key in keys}
        samples: dict[Key, Sample] = {}
        for at, reader in enumerate(self._readers):
            samples |= reader.reopen({key for key in wanted if key.part == at})
        for epoch, keys in self._state.open:
            for key in keys:
                self._pool.add(key, epoch, samples[key])
        for epoch, keys in self._state.ready:
            self._ready.append(_ReadyRow(epoch, tuple((key, samples[key]) for key in keys)))

    def _fill(self) -> Iterator[Reading]:
        """Read samples, each from the part whose turn it is; a refused row is no turn."""
        while self._reads and not self._is_over and not self._is_full():
            at = turn(self._source.weights, [reader.state.used for reader in self._readers])
            epoch = self._epoch
            reading = self._readers[at].read()
            if reading is not None:
                for key, sample in reading.samples:
                    self._pool.add(key, epoch, sample)
                yield reading

    @property
    def _is_over(self) -> bool:
        return self._source.epochs is not None and self._epoch >= self._source.epochs

    def _is_full(self) -> bool:
        """No epoch is begun before all but the last one's samples are in rows."""
        oldest = self._pool.oldest_epoch
        return oldest is not None and (
            len(self._pool) >= LOOK_AHEAD_SAMPLES
            or self._pool.tokens >= min(LOOK_AHEAD_WINDOWS, self._windows_ahead) * self._source.window
            or self._epoch > oldest + 1
        )

    def _after(self, row: PackedRow) -> State:
        return State(
            parts=tuple(reader.state_now() for reader in self._readers),
            open=self._pool.keys,
            ready=tuple((ready.epoch, tuple(key for key, _ in ready.taken)) for ready in self._ready),
            epoch=row.epoch,
            rows_out=self._state.rows_out + 1,
            tokens_out=self._state.tokens_out + sum(row.lengths),
        )
