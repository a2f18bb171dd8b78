"""Which samples does one part of a stream give, epoch after epoch, from where it stands?"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ptw.data.fit import fit
from ptw.data.mix import whole_weights
from ptw.data.pack import Key
from ptw.data.render import render
from ptw.data.renderers import Made, Renderers
from ptw.data.sample import Sample
from ptw.data.shuffle import Order, Start
from ptw.data.state import PartState, Refused
from ptw.errors import PtwError
from ptw.files.find import File, find
from ptw.files.read import Row
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

REFUSED_KEPT = 1000


@dataclass(frozen=True)
class Part:
    """A dataset and its files."""

    dataset: DatasetEntry
    files: tuple[File, ...]


@dataclass(frozen=True)
class Source:
    """What a stream reads, and how. Part for part, `weights` are the shares of the samples."""

    parts: tuple[Part, ...]
    weights: tuple[int, ...]
    tokenizer: Tokenizer
    window: int
    seed: int
    epochs: int | None
    shuffle: bool
    renderers: Renderers

    @property
    def packs(self) -> bool:
        """Whether samples share rows. Prompts don't: a step takes so many of them, whatever their lengths."""
        return not all(part.dataset.format == "prompt" for part in self.parts)

    @classmethod
    def of(
        cls,
        root: Path,
        dataset: DatasetEntry,
        tokenizer: Tokenizer,
        *,
        window: int,
        seed: int,
        epochs: int | None,
        shuffle: bool,
        renderers: int = 0,
    ) -> "Source":
        if window < 2 or (epochs is not None and epochs < 1):
            raise PtwError(
                f"dataset {dataset.name}: window {window} must be 2 or more, epochs {epochs} 1 or more"
            )
        parts = tuple(Part(share.dataset, find(root, share.dataset.source)) for share in dataset.parts)
        weights = whole_weights([share.weight for share in dataset.parts])
        made_by = Renderers(tokenizer, renderers)
        return cls(parts, weights, tokenizer, window, seed, epochs, shuffle, made_by)


@dataclass(frozen=True)
class Reading:
    """What became of the next row of a part: `samples`, or why there are none.

    `reason`: it is refused. `fault`: training ends here; where there is no `row`, the file can't be read on.
    """

    part: int
    epoch: int  # of the part
    row: Row | None
    whole: Sample | None = None  # before it was fitted to the window
    samples: tuple[tuple[Key, Sample], ...] = ()
    reason: str | None = None
    fault: PtwError | None = None


@dataclass
class _OpenBlock:
    """A block that is being read or holds open samples: where it begins, its first row, how many are open."""

    start: Start
    first: int
    open: int = 0


class Reader:
    """Reads part number `at` of a source. A sample is open until it is handed out."""

    def __init__(self, source: Source, at: int, state: PartState) -> None:
        self.state = state
        self._source = source
        self._at = at
        self._part = source.parts[at]
        self._order = Order(self._part.files, source.seed, source.shuffle, among=len(source.parts))
        self._blocks: dict[Start, _OpenBlock] = {}
        self._block_of: dict[Key, _OpenBlock] = {}
        self._entries = self._read_on()

    def read(self) -> Reading | None:
        """What the next row gives; None where an epoch ends in its place. After a fault one may go on."""
        try:
            entry = next(self._entries)
        except PtwError as error:
            return Reading(self._at, self.state.epoch, None, fault=error)
        if entry is None:
            return None
        block, row, made = entry
        reading = self._reading(row, made)
        for key, _ in reading.samples:
            self._hold(block, key)
        return reading

    def _reading(self, row: Row, made: Made) -> Reading:
        epoch = self.state.epoch
        if isinstance(made, PtwError):
            return Reading(self._at, epoch, row, fault=made)
        try:
            samples, reason = self._fitted(made)
        except PtwError as error:
            return Reading(self._at, epoch, row, made, fault=error)
        self._count(row, samples, reason)
        pieces = ((Key(self._at, self.state.row - 1, piece), one) for piece, one in enumerate(samples))
        return Reading(self._at, epoch, row, made, tuple(pieces), reason)

    def reopen(self, wanted: Collection[Key]) -> dict[Key, Sample]:
        """Read again what was not handed out; the blocks that hold it begin where the state says."""
        found: dict[Key, Sample] = {}
        for start, first in self.state.blocks:
            rows = next(self._order.blocks(start)).rows
            for row in sorted({key.row for key in wanted if first <= key.row < first + len(rows)}):
                for piece, sample in enumerate(self._fitted(self._rendered(rows[row - first]))[0]):
                    key = Key(self._at, row, piece)
                    if key in wanted:
                        self._hold(_OpenBlock(start, first), key)
                        found[key] = sample
        return found

    def hand_out(self, key: Key, sample: Sample) -> None:
        self._block_of.pop(key).open -= 1
        self.state = replace(
            self.state,
            samples_out=self.state.samples_out + (key.piece == 0),
            tokens_out=self.state.tokens_out + len(sample.ids),
        )

    def state_now(self) -> PartState:
        self._blocks = {start: block for start, block in self._blocks.items() if block.open}
        return replace(self.state, blocks=tuple((at.start, at.first) for at in self._blocks.values()))

    def _read_on(self) -> Iterator[tuple[_OpenBlock, Row, Made] | None]:
        """The rows to read and what is made of them, epoch after epoch; None between two epochs."""
        while True:
            skipped = self.state.index
            for block in self._order.blocks(self.state.reading):
                opened = _OpenBlock(block.start, self.state.row - skipped)
                rows = block.rows[skipped:]
                made = self._source.renderers.of(rows, self._part.dataset)
                for index, (row, one) in enumerate(zip(rows, made, strict=True), skipped + 1):
                    self.state = replace(self.state, reading=block.start, index=index, row=self.state.row + 1)
                    yield opened, row, one
                skipped = 0
            if not self.state.usable:
                raise self._unusable()
            self.state = replace(self.state, reading=Start(self.state.epoch + 1), index=0, usable=0)
            yield None

    def _rendered(self, row: Row) -> Sample:
        return render(row, self._part.dataset, self._source.tokenizer)

    def _fitted(self, sample: Sample) -> tuple[Sequence[Sample], str | None]:
        return fit(sample, self._part.dataset, self._source.window)

    def _count(self, row: Row, samples: Sequence[Sample], reason: str | None) -> None:
        state = self.state
        if samples:
            self.state = replace(state, used=state.used + 1, usable=state.usable + 1)
            if state.epoch == 0:
                context, unsaid = state.context + samples[0].context, state.unsaid + samples[0].unsaid
                self.state = replace(self.state, context=context, unsaid=unsaid)
        elif state.epoch == 0:
            refused = (*state.refused, Refused(row.place, str(reason)))[:REFUSED_KEPT]
            self.state = replace(state, refused=refused, refused_count=state.refused_count + 1)

    def _hold(self, block: _OpenBlock, key: Key) -> None:
        self._block_of[key] = self._blocks.setdefault(block.start, block)
        self._block_of[key].open += 1

    def _unusable(self) -> PtwError:
        refused = self.state.refused
        first = f"; {refused[0].place}: {refused[0].reason}" if refused else ""
        return PtwError(
            f"dataset {self._part.dataset.name}: no row can be used "
            f"({self.state.refused_count} were refused{first})"
        )
