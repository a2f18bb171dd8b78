"""What did the gate find? A report that a person reads as a table and a program as JSON."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Measured:
    """The worst value of a metric over all cases, and the case that gave it."""

    verifier: str
    metric: str
    value: float
    limit: float
    case: str

    @property
    def passed(self) -> bool:
        return self.value <= self.limit  # so that NaN fails


@dataclass(frozen=True)
class PortReport:
    port: str
    measured: tuple[Measured, ...] = ()
    failures: tuple[str, ...] = ()  # what no metric can say: it crashed, wrote nothing, has no cases
    refused: tuple[str, ...] = ()  # cases that the port refused by name: not a pass of these fields
    cases: int = 0
    by_case: tuple[tuple[str, str, str, float], ...] = ()  # verifier, metric, case, value
    explained: tuple[str, ...] = ()  # what the verifiers say about their failures, in words

    @property
    def passed(self) -> bool:
        return bool(self.measured) and not self.failures and all(entry.passed for entry in self.measured)


@dataclass(frozen=True)
class Report:
    level: str
    seed: int
    ports: tuple[PortReport, ...]
    failures: tuple[str, ...] = ()
    not_enforced: tuple[str, ...] = ()  # protections of the sandbox that this machine did not give
    versions: tuple[tuple[str, str], ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()

    @property
    def passed(self) -> bool:
        return bool(self.ports) and not self.failures and all(port.passed for port in self.ports)

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else 1

    def as_json(self) -> dict[str, Any]:
        """Plain values; a number that JSON can't say (NaN, infinity) is a string."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self))
        values["passed"] = self.passed
        for port, found in zip(self.ports, values["ports"], strict=True):
            found["passed"] = port.passed
            for measured, entry in zip(port.measured, found["measured"], strict=True):
                entry["passed"] = measured.passed
        return values | {"versions": dict(self.versions), "seconds": dict(self.seconds)}

    def as_text(self) -> RenderableType:
        """The table, then in words what failed, what was refused and what could not be enforced."""
        from rich.console import Group
        from rich.text import Text

        lines: list[RenderableType] = [_table(self)]
        for port in self.ports:
            lines += [Text(f"{port.port}: {failure}", style="red") for failure in port.failures]
            refused = (f"{port.port}: refused, so not verified: {entry}" for entry in port.refused)
            lines += [Text(entry, style="yellow") for entry in refused]
        lines += [Text(failure, style="red") for failure in self.failures]
        missing = (f"not enforced on this machine: {entry}" for entry in self.not_enforced)
        lines += [Text(entry, style="yellow") for entry in missing]
        verdict = "passed" if self.passed else "FAILED"
        cases = sum(port.cases for port in self.ports)
        took = sum(seconds for _, seconds in self.seconds)
        again = f"--level acceptance --seed {self.seed}" if self.level == "acceptance" else "practice"
        lines.append(Text(f"{verdict}: {len(self.ports)} ports, {cases} cases ({again}), {took:.1f} s"))
        return Group(*lines)


def _table(report: Report) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table("port", "verifier", "metric", "value", "limit", "case", "", box=None, header_style="bold")
    for column in (3, 4):
        table.columns[column].justify = "right"
    for port in report.ports:
        for entry in port.measured:
            style = "" if entry.passed else "red"
            verdict = "ok" if entry.passed else "FAILED"
            numbers = (f"{entry.value:.3g}", f"{entry.limit:g}")
            cells = (port.port, entry.verifier, entry.metric, *numbers, entry.case, verdict)
            table.add_row(*(Text(cell, style=style) for cell in cells))
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
