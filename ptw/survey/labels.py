"""What do the rows of a dataset say that a model is to say of them?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ptw.data.sample import Label

SHOWN = 5


@dataclass
class Range:
    """Of the numbers of one name."""

    least: float = float("inf")
    most: float = float("-inf")
    total: float = 0.0
    count: int = 0

    def add(self, number: float) -> None:
        self.least, self.most = min(self.least, number), max(self.most, number)
        self.total, self.count = self.total + number, self.count + 1

    @property
    def mean(self) -> float:
        return self.total / self.count


@dataclass
class Labels:
    """Names and numbers; a number alone has the name ""."""

    rows: int = 0
    names: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, Range] = field(default_factory=dict)

    def add(self, label: Label) -> None:
        self.rows += 1
        if isinstance(label, str | tuple):
            self.names.update([label] if isinstance(label, str) else label)
            return
        for name, number in ({"": label} if isinstance(label, float | int) else label).items():
            self.numbers.setdefault(name, Range()).add(number)

    def facts(self) -> Iterator[tuple[str, str]]:
        if self.names:
            first = ", ".join(f"{name} {count:,}" for name, count in self.names.most_common(SHOWN))
            more = f", {len(self.names) - SHOWN:,} more" if len(self.names) > SHOWN else ""
            each = self.names.total() / self.rows
            yield "labels", f"{len(self.names):,} names, {each:.3g} of a row: {first}{more}"
        for name, found in self.numbers.items():
            of = f"{name}: " if name else ""
            yield "numbers", f"{of}{found.least:.4g} to {found.most:.4g}, mean {found.mean:.4g}"

    def as_json(self) -> dict[str, Any]:
        numbers = {name: {**vars(found), "mean": found.mean} for name, found in self.numbers.items()}
        return {"rows": self.rows, "names": dict(self.names.most_common()), "numbers": numbers}
