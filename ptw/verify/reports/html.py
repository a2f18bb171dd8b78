"""How does a reviewer read a report? One page, self-contained: nothing is fetched, nothing on it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptw.pages.page import rendered
from ptw.verify.reports.report import Effect, Heat, Measured, Report, SubjectReport

TEMPLATE = Path(__file__).with_name("page.html.jinja")
LOWEST, HIGHEST = -17.0, 1.0  # powers of ten: the ends of the scale of errors
STEPS = 9  # colours of a heat map
COOLEST, HOTTEST = -16.0, 0.0  # powers of ten
FAINT = 2  # colours up to here are rounding
ORDER = ("ignored", "wrong", "refused", "followed")
RATIO = 0.5  # a limit from here on is a ratio to the reference's own, on a scale from 0


@dataclass(frozen=True)
class Bar:
    """A value on a scale of 0 to 100, and its limit on the same."""

    verifier: str
    metric: str
    value: str
    limit: str
    case: str
    passed: bool
    width: float
    mark: float  # where the limit stands
    one: float | None = None  # of a ratio, where it is as good as the reference


@dataclass(frozen=True)
class Row:
    """A module's row of a heat map: runs of columns of one colour."""

    name: str
    depth: int
    worst: str
    runs: tuple[tuple[int, int, int], ...]  # start, width, colour


@dataclass(frozen=True)
class Map:
    case: str
    rows: tuple[Row, ...]
    columns: int
    ticks: tuple[tuple[float, str], ...]  # place in percent, position


@dataclass(frozen=True)
class Port:
    report: SubjectReport
    worst: tuple[Bar, ...]
    errors: tuple[Bar, ...]
    ratios: tuple[Bar, ...]
    heat: Map | None
    effects: tuple[tuple[Effect, float, float], ...]  # widths of the reference's bar and of the port's


def as_html(report: Report) -> str:
    """Everything that a port said is hostile text: the template escapes all of it."""
    total = sum(seconds for _, seconds in report.seconds)
    return rendered(
        TEMPLATE,
        {"number": number, "seconds": lambda value: f"{value:.1f} s"},
        report=report,
        ports=[_port(port) for port in sorted(report.subjects, key=lambda port: port.passed)],
        total=total,
        shares=[(name, seconds, 100 * seconds / max(total, 1e-9)) for name, seconds in report.seconds],
        scale=[(place(10.0**power), f"1e{power}" if power else "1") for power in (-16, -12, -8, -4, 0)],
        colours=range(STEPS),
        coolest=f"{10.0**COOLEST:g}",
        hottest=f"{10.0**HOTTEST:g}",
    )


def number(value: float | None) -> str:
    return "another shape" if value is None else f"{value:.3g}"


def place(value: float) -> float:
    """Where a value stands on the logarithmic scale, in percent; zero on its left end."""
    if math.isnan(value) or value == math.inf:
        return 100.0
    power = math.log10(value) if value > 0 else LOWEST
    return round(100 * (min(max(power, LOWEST), HIGHEST) - LOWEST) / (HIGHEST - LOWEST), 2)


def colour(value: float) -> int:
    """0 for rounding in fp64 and below, and up."""
    if not value > 0:
        return STEPS - 1 if math.isnan(value) else 0
    power = HOTTEST if value == math.inf else math.log10(value)
    share = (min(max(power, COOLEST), HOTTEST) - COOLEST) / (HOTTEST - COOLEST)
    return min(int(share * STEPS), STEPS - 1)


def _port(port: SubjectReport) -> Port:
    ratios = [entry for entry in port.measured if entry.limit >= RATIO]
    return Port(
        report=port,
        worst=_bars(entry for entry in port.worst if entry not in ratios),
        errors=_bars(entry for entry in port.measured if entry not in ratios),
        ratios=_bars(ratios),
        heat=_map(port.heat) if port.heat else None,
        effects=tuple(
            (effect, place(effect.reference or 0.0), place(effect.port or 0.0))
            for effect in sorted(port.effects, key=lambda effect: ORDER.index(effect.verdict))
        ),
    )


def _bars(entries: Iterable[Measured]) -> tuple[Bar, ...]:
    return tuple(_bar(entry) for entry in entries)


def _bar(entry: Measured) -> Bar:
    words = (entry.verifier, entry.metric, f"{entry.value:.3g}", f"{entry.limit:g}", entry.case, entry.passed)
    if entry.limit < RATIO:
        return Bar(*words, place(entry.value), place(entry.limit))
    largest = 1.25 * max(entry.limit, entry.value if math.isfinite(entry.value) else entry.limit)
    shares = [100 * value / largest for value in (entry.value, entry.limit, 1.0)]
    width, mark, one = (
        round(min(max(share, 0.0), 100.0), 2) if share == share else 100.0 for share in shares
    )
    return Bar(*words, width, mark, one)


def _map(heat: Heat) -> Map:
    columns = len(heat.starts)
    rows = [_row(name, values) for name, values in zip(heat.rows, heat.values, strict=True)]
    # the blocks and their parts; of these parts' own only what differs
    rows = [row for row in rows if row.depth <= 1 or any(shade > FAINT for _, _, shade in row.runs)]
    every = max(1, -(-columns // 4))
    ticks = [
        (round(100 * at / columns, 2), str(start)) for at, start in enumerate(heat.starts) if at % every == 0
    ]
    return Map(heat.case, tuple(rows), columns, tuple(ticks))


def _row(name: str, values: Sequence[float]) -> Row:
    """Modules that stand in a block are set in from it; neighbours of one colour are drawn as one."""
    runs: list[tuple[int, int, int]] = []
    for column, value in enumerate(values):
        shade = colour(value)
        if runs and runs[-1][2] == shade:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, shade)
        else:
            runs.append((column, 1, shade))
    parts = name.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdigit()]
    depth = len(parts) - 1 - numbers[0] if numbers else 0
    return Row(name.removeprefix("model."), depth, f"{max(values):.2g}", tuple(runs))
