"""What does a page tell of a run, to whoever reads it later and elsewhere?"""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

from ptw.pages.chart import Chart, Line, drawn, stacked
from ptw.pages.page import rendered
from ptw.runs import lines
from ptw.runs.curves import Measured, short
from ptw.runs.figures import Figures, spent, times
from ptw.runs.record import EVENTS, RunRecord, flat, made_of, now
from ptw.runs.report import commit_text

TEMPLATE = Path(__file__).with_name("page.html.jinja")
EVENTS_SHOWN = 12  # before the rest is folded away
ELSEWHERE = (
    "settings",
    "overrides",
    "root",
    "file",
    "folder",
    "threads",
    "launch",
    "host",
    "recipe",
    "tracking",
)


def as_html(record: RunRecord) -> str:
    """The whole page."""
    measured = Measured.of(record)
    return rendered(
        TEMPLATE,
        {"when": when},
        run=record,
        commit=commit_text(record),
        written=now(),
        tiles=_tiles(measured),
        charts=[*_timeline(measured), *_charts(measured)],
        held_out=_held_out_charts(measured),
        table=_held_out_table(measured),
        settings=[(key, shown(value), key in record.overrides) for key, value in record.settings.items()],
        made_from=[(key, shown(value)) for key, value in flat(_plan(record)).items()],
        events=list(reversed(lines.read(record.folder / EVENTS)[0])),
        events_shown=EVENTS_SHOWN,
    )


def when(text: str) -> str:
    """A time as it was on the clock where the run was, to the second."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z")


def shown(value: Any) -> str:
    """As workspace.toml would have it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plan(record: RunRecord) -> dict[str, Any]:
    """What the run is made from, beside its settings."""
    return {key: value for key, value in made_of(record.plan).items() if key not in ELSEWHERE}


def _tiles(measured: Measured) -> list[tuple[str, str]]:
    if not measured.steps:
        return []
    last = measured.steps[-1]
    total = last.get("total")
    steps = f"{last['step']:,}" + (f" / {total:,}" if total and total != last["step"] else "")
    tokens = sum(line.get("tokens", 0) for line in measured.steps)
    return [
        ("steps", steps),
        *([("last loss", f"{last['loss']:.4f}")] if "loss" in last else []),
        ("tokens", f"{tokens:,}"),
        *Figures.of(measured.steps).texts().items(),
        *((f"time to {what}", f"{part:.0%}") for what, part in times(measured.steps).items()),
    ]


def _timeline(measured: Measured) -> list[Chart]:
    """What took how long in each step, where a recipe says: one bar on top of the other."""
    parts = spent(measured.steps)
    wholes = [math.fsum(seconds) for seconds in zip(*parts.values(), strict=True)]
    bars = [
        Line(what, [(line["step"], some) for line, some in zip(measured.steps, seconds, strict=True)], at)
        for at, (what, seconds) in enumerate(parts.items())
    ]
    note = f"longest {seconds_text(max(wholes))}, last {seconds_text(wholes[-1])}" if wholes else ""
    chart = stacked("time of a step", bars, seconds_text, note=note, marks=measured.resumed)
    return [] if chart is None else [chart]


def seconds_text(value: float) -> str:
    return f"{short(value)} s"


def _charts(measured: Measured) -> list[Chart]:
    charts = []
    for kind in measured.kinds:
        points = measured.trained(kind)
        note = f"last {kind.text(points[-1][1])}" if points else ""
        charts.append(drawn(kind.title, [Line("", points)], kind.text, note=note, marks=measured.resumed))
    return [chart for chart in charts if chart is not None]


def _held_out_charts(measured: Measured) -> list[Chart]:
    charts = []
    for key in measured.held_out_keys:
        points = measured.measured(key)
        note = f"last {short(points[-1][1])}" if points else ""
        charts.append(drawn(key, [Line("", points)], short, note=note, marks=measured.resumed))
    return [chart for chart in charts if chart is not None]


def _held_out_table(measured: Measured) -> list[tuple[str, ...]]:
    """Each figure: first, lowest, highest, last."""
    rows = []
    for key in measured.held_out_keys:
        values = [value for _, value in measured.measured(key)]
        if values:
            ends = values[0], min(values), max(values), values[-1]
            rows.append((key, *(f"{value:.4f}" for value in ends)))
    return rows
