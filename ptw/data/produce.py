"""Which packed rows follow from a state?"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ptw.data.fit import fit
from ptw.data.pack import Key, PackedRow, Pool, lay_out
from ptw.data.render import Sample, render
from ptw.data.shuffle import Start, blocks
from ptw.data.state import Refused, State
from ptw.errors import PtwError
from ptw.files.find import File
from ptw.files.read import Row
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

LOOK_AHEAD_SAMPLES = 2048
LOOK_AHEAD_WINDOWS = 128
READY_ROWS = 256  # packed ahead, handed out at random: packing itself goes from long samples to short
READY_TOKENS = 2**19  # of them, to bound memory where windows are long
REFUSED_KEPT = 1000


@dataclass(frozen=True)
class Source:
    """What a stream reads, and how."""

    files: tuple[File, ...]
    dataset: DatasetEntry
    tokenizer: Tokenizer
    window: int
    seed: int
    epochs: int | None
    shuffle: bool


def produce(source: Source, state: State) -> Iterator[tuple[PackedRow, State]]:
    """Every further row, with the state after it; endless where `epochs` is None."""
    return _Producer(source, state).rows()


@dataclass
class _OpenBlock:
    """A block that is being read or holds open samples: where it begins, its first row, how many are open."""

    start: Start
    first: int
    open: int = 0


@dataclass(frozen=True)
class _ReadyRow:
    """A row that is packed, and waits for its turn."""

    epoch: int
    taken: tuple[tuple[Key, Sample], ...]


class _Producer:
    def __init__(self, source: Source, state: State) -> None:
        self._source = source
        self._state = state
        self._pool = Pool()
        self._ready: list[_ReadyRow] = []
        self._blocks: dict[Start, _OpenBlock] = {}
        self._block_of: dict[Key, _OpenBlock] = {}

    def rows(self) -> Iterator[tuple[PackedRow, State]]:
        self._reopen()
        entries = self._entries()
        pad_id = self._source.tokenizer.pad_id or 0
        while True:
            self._pack(entries)
            if not self._ready:
                return
            draw = random.Random(f"{self._source.seed} row {self._state.rows_out}")
            ready = self._ready.pop(draw.randrange(len(self._ready)))
            for key, _ in ready.taken:
                self._block_of.pop(key).open -= 1
            samples = [sample for _, sample in ready.taken]
            row = lay_out(samples, self._source.window, pad_id, ready.epoch)
            self._state = self._after(row)
            yield row, self._state

    def _pack(self, entries: Iterator[tuple[_OpenBlock, Row] | None]) -> None:
        """Make rows ready, of one epoch at a time."""
        most = min(READY_ROWS, READY_TOKENS // self._source.window) if self._source.shuffle else 0
        while len(self._ready) < max(most, 1):
            self._fill(entries)
            epoch = self._pool.oldest_epoch
            if epoch is None or (self._ready and self._ready[0].epoch != epoch):
                return
            self._ready.append(_ReadyRow(epoch, tuple(self._pool.take(self._source.window))))

    def _reopen(self) -> None:
        """Read again what was not handed out; the blocks that hold it begin where the state says."""
        packed = {key for _, keys in self._state.ready for key in keys}
        wanted = packed | set(self._state.open)
        samples: dict[Key, Sample] = {}
        for start, first in self._state.blocks:
            block = next(blocks(self._source.files, self._source.seed, start, self._source.shuffle))
            held = sorted({key.row for key in wanted if first <= key.row < first + len(block.rows)})
            for row in held:
                parts, _ = self._samples(block.rows[row - first])
                for part, sample in enumerate(parts):
                    if Key(row, part) in wanted:
                        self._hold(_OpenBlock(start, first), Key(row, part))
                        samples[Key(row, part)] = sample
        for key in self._state.open:
            self._pool.add(key, self._block_of[key].start.epoch, samples[key])
        for epoch, keys in self._state.ready:
            self._ready.append(_ReadyRow(epoch, tuple((key, samples[key]) for key in keys)))

    def _fill(self, entries: Iterator[tuple[_OpenBlock, Row] | None]) -> None:
        while not self._is_full():
            try:
                entry = next(entries)
            except StopIteration:
                return
            if entry is not None:
                self._read(*entry)

    def _is_full(self) -> bool:
        """No epoch is begun before all but the last one's samples are in rows."""
        oldest = self._pool.oldest_epoch
        return oldest is not None and (
            len(self._pool) >= LOOK_AHEAD_SAMPLES
            or self._pool.tokens >= LOOK_AHEAD_WINDOWS * self._source.window
            or self._state.reading.epoch > oldest + 1
        )

    def _entries(self) -> Iterator[tuple[_OpenBlock, Row] | None]:
        """The rows to read, epoch after epoch; None between two epochs."""
        source = self._source
        while source.epochs is None or self._state.reading.epoch < source.epochs:
            skipped = self._state.index
            for block in blocks(source.files, source.seed, self._state.reading, source.shuffle):
                opened = _OpenBlock(block.start, self._state.row - skipped)
                for index in range(skipped, len(block.rows)):
                    self._state = replace(
                        self._state, reading=block.start, index=index + 1, row=self._state.row + 1
                    )
                    yield opened, block.rows[index]
                skipped = 0
            if not self._state.usable:
                raise self._unusable()
            self._state = replace(
                self._state, reading=Start(self._state.reading.epoch + 1), index=0, usable=0
            )
            yield None

    def _read(self, block: _OpenBlock, row: Row) -> None:
        samples, reason = self._samples(row)
        state = self._state
        if reason is not None and state.reading.epoch == 0:
            refused = (*state.refused, Refused(row.place, reason))[:REFUSED_KEPT]
            self._state = replace(state, refused=refused, refused_count=state.refused_count + 1)
        elif samples:
            context = samples[0].context if state.reading.epoch == 0 else 0
            self._state = replace(state, usable=state.usable + len(samples), context=state.context + context)
        for part, sample in enumerate(samples):
            self._hold(block, Key(state.row - 1, part))
            self._pool.add(Key(state.row - 1, part), block.start.epoch, sample)

    def _samples(self, row: Row) -> tuple[Sequence[Sample], str | None]:
        sample = render(row, self._source.dataset, self._source.tokenizer)
        bos_id = self._source.tokenizer.bos_id
        return fit(sample, self._source.dataset, self._source.window, bos_id)

    def _hold(self, block: _OpenBlock, key: Key) -> None:
        self._block_of[key] = self._blocks.setdefault(block.start, block)
        self._block_of[key].open += 1

    def _after(self, row: PackedRow) -> State:
        self._blocks = {start: block for start, block in self._blocks.items() if block.open}
        return replace(
            self._state,
            blocks=tuple((block.start, block.first) for block in self._blocks.values()),
            open=self._pool.keys,
            ready=tuple((ready.epoch, tuple(key for key, _ in ready.taken)) for ready in self._ready),
            epoch=row.epoch,
            rows_out=self._state.rows_out + 1,
            tokens_out=self._state.tokens_out + sum(row.lengths),
        )

    def _unusable(self) -> PtwError:
        name, refused = self._source.dataset.name, self._state.refused
        first = f"; {refused[0].place}: {refused[0].reason}" if refused else ""
        return PtwError(
            f"dataset {name}: no row can be used ({self._state.refused_count} were refused{first})"
        )
