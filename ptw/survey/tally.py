"""What is counted of the rows of a part, in memory that does not grow with them?"""

import re
from bisect import insort
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ptw.data.reader import Reading
from ptw.files.read import Row
from ptw.survey.labels import Labels
from ptw.tokens.tokenizer import Tokenizer

PLACES = 3  # named of each kind of reason
KINDS = 50  # of reasons; the further ones are one
UNKNOWN = 5  # items named

_VARIABLE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d[\d,.]*")


@dataclass
class Reason:
    """Why rows are not used: the words of one, how many rows, and where the first of them stand."""

    text: str
    count: int = 0
    first: list[tuple[str, int, str]] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.count += 1
        file = row.place.rpartition(":")[0]
        insort(self.first, (file, row.number, row.place))
        del self.first[PLACES:]

    @property
    def places(self) -> list[str]:
        return [place for _, _, place in self.first]


class Reasons:
    """Rows by reason: those whose words differ only in numbers and in what is quoted are of one kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, Reason] = {}
        self.count = 0

    def add(self, row: Row, text: str) -> None:
        self.count += 1
        text = text.removeprefix(f"{row.place}: ")
        kind = _VARIABLE.sub("*", text)
        if kind not in self._kinds and len(self._kinds) >= KINDS:
            kind, text = "", "other reasons"
        self._kinds.setdefault(kind, Reason(text)).add(row)

    def listed(self) -> list[Reason]:
        """The most frequent first."""
        return sorted(self._kinds.values(), key=lambda reason: -reason.count)


@dataclass
class Events:
    """Of sequences: how long each is as it stands, what leave_out takes, which items occur."""

    leave_out: int
    lengths: Counter[int] = field(default_factory=Counter)
    taken: int = 0  # by leave_out
    unknown: int = 0  # events whose item is not in the catalogue
    unknown_items: list[str] = field(default_factory=list)  # the first few
    seen: set[int] = field(default_factory=set)  # items that are learnt or follow one
    catalogue: int = 0
    labels: dict[str, Counter[str | None]] = field(default_factory=dict)  # of each field, where they have any
    events: int = 0  # whose fields these are
    field_ids: int = 0  # that say them

    def add(self, reading: Reading, tokenizer: Tokenizer) -> None:
        items = reading.row.value.get("items") if reading.row is not None else None
        if not isinstance(items, list):
            return
        self.catalogue = self.catalogue or tokenizer.size - len(tokenizer.special_ids)
        self.lengths[len(items)] += 1
        self.taken += min(len(items), self.leave_out)
        unknown = tokenizer.unknown_items([str(item) for item in items])
        self.unknown += len(unknown)
        for item in unknown:
            if item not in self.unknown_items and len(self.unknown_items) < UNKNOWN:
                self.unknown_items.append(item)
        if reading.whole is not None:
            ids = Counter(reading.whole.ids.tolist())
            self.seen.update(ids.keys() - tokenizer.special_ids)
            self.events += len(reading.whole.events)
            self._count_fields(ids, tokenizer)

    def _count_fields(self, ids: Counter[int], tokenizer: Tokenizer) -> None:
        for id_ in ids.keys() & tokenizer.field_ids.keys():
            self.field_ids += ids[id_]
            for name, label in tokenizer.fields.said[tokenizer.field_ids[id_]].items():
                self.labels.setdefault(name, Counter())[label] += ids[id_]


@dataclass
class Tally:
    """Of a part's first epoch. Lengths are those before anything is cut; `over` is longer than the window."""

    name: str
    window: int
    too_long: str
    events: Events | None = None
    rows: int = 0
    content_bytes: int = 0
    used: int = 0
    # distinct lengths: so many that together they would be more tokens than there are are impossible
    lengths: Counter[int] = field(default_factory=Counter)
    over: int = 0
    over_tokens: int = 0  # beyond the window
    cut: int = 0
    cut_tokens: int = 0
    split: int = 0
    pieces: int = 0
    refused_tokens: int = 0
    tokens: int = 0  # of the samples, as they are learnt
    learnt: int = 0
    context: int = 0  # turns of an assistant that are context only
    chats_with_context: int = 0
    unsaid: int = 0  # turns whose thinking the template leaves out
    labels: Labels = field(default_factory=Labels)
    refused: Reasons = field(default_factory=Reasons)
    faults: Reasons = field(default_factory=Reasons)

    def add(self, reading: Reading, tokenizer: Tokenizer) -> None:
        assert reading.row is not None
        self.rows += 1
        self.content_bytes += reading.row.size + 1  # the line's end
        if self.events is not None:
            self.events.add(reading, tokenizer)
        if reading.fault is not None:
            self.faults.add(reading.row, str(reading.fault))
        elif reading.reason is not None:
            self.refused.add(reading.row, reading.reason)
        if reading.whole is not None:
            self._measure(reading, len(reading.whole.ids))

    def _measure(self, reading: Reading, length: int) -> None:
        self.lengths[length] += 1
        if length > self.window:
            self.over += 1
            self.over_tokens += length - self.window
        samples = [sample for _, sample in reading.samples]
        if not samples:
            self.refused_tokens += length
            return
        kept = sum(len(sample.ids) for sample in samples)
        self.used += 1
        self.tokens += kept
        self.learnt += sum(int(sample.learn[1:].sum()) for sample in samples)
        if kept < length:
            self.cut += 1
            self.cut_tokens += length - kept
        if len(samples) > 1:
            self.split += 1
            self.pieces += len(samples)
        if samples[0].label is not None:
            self.labels.add(samples[0].label)
        self.context += samples[0].context
        self.unsaid += samples[0].unsaid
        self.chats_with_context += samples[0].context > 0


def quantiles(lengths: Counter[int]) -> dict[str, int]:
    """The length that so many of 100 samples don't exceed."""
    if not lengths:
        return {}
    values = np.array(sorted(lengths))
    upto = np.cumsum([lengths[value] for value in values.tolist()])
    found = {
        f"p{percent}": int(values[np.searchsorted(upto, percent * upto[-1] / 100)])
        for percent in (50, 90, 99)
    }
    return {"min": int(values[0]), **found, "max": int(values[-1])}
