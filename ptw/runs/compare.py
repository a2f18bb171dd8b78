"""In what do two runs differ, and what came of it?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ptw.errors import PtwError
from ptw.pages.chart import Chart, Line, drawn
from ptw.pages.page import rendered
from ptw.runs.curves import LOSS, By, Kind, Measured, Point, short
from ptw.runs.figures import Figures
from ptw.runs.page import shown, when
from ptw.runs.record import RunRecord, flat, made_of
from ptw.runs.report import commit_text, overlaid

TEMPLATE = Path(__file__).with_name("compare.html.jinja")
COLOURS = ("cyan", "yellow")
BOTH = "white"  # where both curves run through one character


@dataclass(frozen=True)
class Difference:
    """A value that two runs do not share; None where one lacks it."""

    part: str  # settings, plan, digests, versions, commit, tokenizer
    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Comparison:
    """Two runs, and what each wrote down."""

    a: RunRecord
    b: RunRecord
    measured: tuple[Measured, Measured]
    differences: tuple[Difference, ...]

    @classmethod
    def of(cls, a: RunRecord, b: RunRecord) -> "Comparison":
        """PtwError where one trained nothing by its nature."""
        for record in (a, b):
            if "settings" not in record.plan:
                raise PtwError(f"{record.name} is no training run; `ptw runs` lists them")
        before, after = _parts(a), _parts(b)
        found = [
            Difference(part, key, values.get(key), after[part].get(key))
            for part, values in before.items()
            for key in dict.fromkeys([*values, *after[part]])
            if values.get(key) != after[part].get(key)
        ]
        return cls(a, b, (Measured.of(a), Measured.of(b)), tuple(found))

    @property
    def names(self) -> tuple[str, str]:
        return self.a.name, self.b.name

    @property
    def held_out_keys(self) -> list[str]:
        """The figures of either."""
        return list(dict.fromkeys(key for measured in self.measured for key in measured.held_out_keys))

    @property
    def kinds(self) -> list[Kind]:
        """The figures that either run has, each once."""
        by_title = {kind.title: kind for measured in self.measured for kind in measured.kinds}
        return list(by_title.values())

    def trained(self, kind: Kind, by: By) -> list[list[Point]]:
        return [measured.trained(kind, by) for measured in self.measured]

    def held_out(self, key: str, by: By) -> list[list[Point]]:
        return [measured.measured(key, by) for measured in self.measured]

    def outcomes(self) -> list[tuple[str, str, str]]:
        """What came of both, a row a figure."""
        rows = [("steps", *(f"{len(m.steps):,}" for m in self.measured))]
        losses = [points[-1:] for points in self.trained(LOSS, "step")]
        rows.append(("last loss", *(f"{p[0][1]:.4f}" if p else "-" for p in losses)))
        for key in self.held_out_keys:
            last = [points[-1:] for points in self.held_out(key, "step")]
            rows.append((f"last {key}", *(f"{p[0][1]:.4f}" if p else "-" for p in last)))
        texts = [Figures.of(measured.steps).texts() for measured in self.measured]
        return [*rows, *((name, texts[0][name], texts[1][name]) for name in texts[0])]  # type: ignore[list-item]


def as_json(found: Comparison, by: By) -> dict[str, Any]:
    """For programs: names, differences, and the points of every figure."""
    curves = {kind.title: found.trained(kind, by) for kind in found.kinds}
    held_out = {key: found.held_out(key, by) for key in found.held_out_keys}
    return {
        "a": found.a.name,
        "b": found.b.name,
        "by": by,
        "differences": [vars(one) for one in found.differences],
        "curves": {key: {"a": a, "b": b} for key, (a, b) in {**curves, **held_out}.items()},
    }


def show(found: Comparison, by: By) -> RenderableType:
    """For a terminal: differences, outcomes, and both losses in one drawing."""
    differences = _grid("", found)
    for one in found.differences:
        differences.add_row(_label(one), _cell(one.a), _cell(one.b))
    outcomes = _grid("", found)
    for name, a, b in found.outcomes():
        outcomes.add_row(name, a, b)
    same = Text("nothing that either run was made from differs")
    parts: list[RenderableType] = [differences if found.differences else same, Text(), outcomes, Text()]
    curves = found.trained(LOSS, by)
    if max(map(len, curves)) > 1:
        parts += [_legend(found, by), overlaid(curves, (*COLOURS, BOTH))]
    return Group(*parts)


def as_html(found: Comparison, by: By) -> str:
    """For a browser: the same, with every figure."""
    trained = [_chart(found, kind.title, found.trained(kind, by), kind.text, by) for kind in found.kinds]
    held_out = [_chart(found, key, found.held_out(key, by), short, by) for key in found.held_out_keys]
    return rendered(
        TEMPLATE,
        {"when": when},
        runs=[(found.a, commit_text(found.a)), (found.b, commit_text(found.b))],
        by=by,
        differences=[(_label(one), _plain(one.a), _plain(one.b)) for one in found.differences],
        outcomes=found.outcomes(),
        sections=[
            (title, [chart for chart in charts if chart is not None])
            for title, charts in (("Held out", held_out), ("Training", trained))
        ],
    )


def _chart(
    found: Comparison, title: str, curves: list[list[Point]], text: Callable[[float], str], by: By
) -> Chart | None:
    named = zip(found.names, curves, strict=True)
    return drawn(title, [Line(name, points, at) for at, (name, points) in enumerate(named)], text, axis=by)


def _parts(record: RunRecord) -> dict[str, Mapping[str, Any]]:
    plan = {key: value for key, value in made_of(record.plan).items() if key != "settings"}
    return {
        "settings": record.settings,
        "plan": flat(plan),
        "digests": record.digests,
        "tokenizer": {"fingerprint": record.fingerprint},
        "commit": {"commit": commit_text(record)},
        "versions": record.versions,
    }


def _label(one: Difference) -> str:
    return {"digests": f"digest of {one.key}", "tokenizer": "tokenizer's ids"}.get(one.part, one.key)


def _plain(value: Any) -> str:
    return "-" if value is None else shown(value)


def _cell(value: Any) -> Text:
    return Text(_plain(value)[:60])


def _grid(title: str, found: Comparison) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column(title, style="bold")
    for record, colour in zip((found.a, found.b), COLOURS, strict=True):
        grid.add_column(Text(record.name, colour), overflow="fold")
    return grid


def _legend(found: Comparison, by: By) -> Text:
    text = Text(f"loss by {by}: ", "bold")
    for name, colour in zip(found.names, COLOURS, strict=True):
        text.append(f"{name}  ", colour)
    return text.append("both", BOTH)
