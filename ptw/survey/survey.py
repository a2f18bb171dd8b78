"""What do the rows of a dataset come to? Read, rendered, fitted and packed by what training does it with."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ptw.data.pack import IGNORED, PackedRow
from ptw.data.produce import Producer
from ptw.data.reader import Part, Reading, Source
from ptw.data.sample import Sample
from ptw.data.state import PartState, State
from ptw.errors import PtwError
from ptw.files.find import size_bytes
from ptw.survey.setup import Setup
from ptw.survey.tally import Events, Tally
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry


@dataclass(frozen=True)
class Limit:
    """When enough was read: at so many rows, or after so many seconds; None: never."""

    rows: int | None = None
    seconds: float | None = None

    def reached(self, rows: int, seconds: float) -> bool:
        return (self.rows is not None and rows >= self.rows) or (
            self.seconds is not None and seconds >= self.seconds
        )


@dataclass(frozen=True)
class Shown:
    """A sample as it is learnt, the first piece where it is split, and how many ids it had as a whole."""

    part: str
    sample: Sample
    length: int
    pieces: int


@dataclass
class Packed:
    """The rows that an epoch is packed into; `learnt` are tokens with a loss."""

    rows: int = 0
    tokens: int = 0
    learnt: int = 0

    def add(self, row: PackedRow) -> None:
        self.rows += 1
        self.tokens += sum(row.lengths)
        self.learnt += int((row.targets != IGNORED).sum())


@dataclass
class Survey:
    """A dataset read once, in the order of training's first epoch; complete when `steps` has ended."""

    dataset: DatasetEntry
    setup: Setup
    tokenizer: Tokenizer
    tallies: tuple[Tally, ...]
    sizes: tuple[int | None, ...]  # of each part's content; None: only reading all of it would tell
    packed: Packed = field(default_factory=Packed)
    shown: list[Shown] = field(default_factory=list)
    parts: tuple[PartState, ...] = ()  # what was handed out of each, once all steps are done
    fault: PtwError | None = None  # at which training would end
    ended_by: PtwError | None = None  # why reading ended before its time: a file can't be read on
    cut_short: bool = False  # the limit came before the end
    seconds: float = 0.0
    _source: Source | None = None
    _usable: int = 0

    @classmethod
    def begin(cls, root: Path, dataset: DatasetEntry, tokenizer: Tokenizer, setup: Setup) -> "Survey":
        """PtwError: a source of which no file is there, or whose store doesn't answer."""
        source = Source.of(
            root,
            dataset,
            tokenizer,
            window=setup.window,
            seed=setup.seed,
            epochs=1,
            shuffle=setup.shuffle,
        )
        tallies = tuple(_tally(part.dataset, setup.window) for part in source.parts)
        sizes = tuple(_content_bytes(part) for part in source.parts)
        return cls(dataset, setup, tokenizer, tallies, sizes, _source=source)

    def steps(self, limit: Limit, samples: int, seed: int) -> Iterator["Survey"]:
        """Itself after each row that is read, so that whoever waits may be told."""
        assert self._source is not None, "a survey is begun with `begin`"
        began = time.monotonic()
        draw = random.Random(f"{seed} samples")
        producer = Producer(self._source, State.beginning(len(self._source.parts)))
        for step in producer.steps():
            if not isinstance(step, Reading):
                self.packed.add(step[0])
                continue
            self._add(step, samples, draw)
            self.seconds = time.monotonic() - began
            if self.ended_by is not None or limit.reached(self.rows, self.seconds):
                producer.read_no_more()
            yield self
        self.parts = producer.parts
        self.cut_short = self.ended_by is None and min(part.epoch for part in self.parts) == 0

    @property
    def rows(self) -> int:
        """Read, each once."""
        return sum(tally.rows for tally in self.tallies)

    @property
    def whole(self) -> bool:
        """Whether all of it was read."""
        return self.ended_by is None and not self.cut_short

    @property
    def lengths(self) -> Counter[int]:
        return sum((tally.lengths for tally in self.tallies), Counter())

    @property
    def efficiency(self) -> float | None:
        """Which part of the packed rows is no padding; None where nothing could be packed."""
        return self.packed.tokens / (self.packed.rows * self.setup.window) if self.packed.rows else None

    def share_read(self, at: int) -> float | None:
        """Which part of the content of part `at` was read; None where nobody knows."""
        size, tally = self.sizes[at], self.tallies[at]
        if self.parts and self.parts[at].epoch > 0:
            return 1.0
        return min(tally.content_bytes / size, 1.0) if size else None

    def _add(self, reading: Reading, samples: int, draw: random.Random) -> None:
        if reading.fault is not None and self.fault is None:
            self.fault = reading.fault
        if reading.row is None:
            self.ended_by = reading.fault
        # a quick part of a mix begins again, and is counted once
        elif reading.epoch == 0:
            self.tallies[reading.part].add(reading, self.tokenizer)
            if reading.samples and reading.whole is not None:
                name = self.tallies[reading.part].name
                first = reading.samples[0][1]
                self._draw(Shown(name, first, len(reading.whole.ids), len(reading.samples)), samples, draw)

    def _draw(self, shown: Shown, samples: int, draw: random.Random) -> None:
        """Each of those that can be used is as likely to be shown (Vitter's algorithm R)."""
        self._usable += 1
        if len(self.shown) < samples:
            self.shown.append(shown)
        elif (at := draw.randrange(self._usable)) < samples:
            self.shown[at] = shown


def _tally(dataset: DatasetEntry, window: int) -> Tally:
    events = Events(dataset.leave_out) if dataset.format == "event" else None
    return Tally(dataset.name, window, dataset.too_long, events)


def _content_bytes(part: Part) -> int | None:
    """Of lines that are stored as they are; what is compressed says no size before it is read."""
    if not all(file.place.endswith(".jsonl") for file in part.files):
        return None
    return sum(size_bytes(file) for file in part.files)
