"""What does a page tell of measured recommendations, to whoever reads it later and elsewhere?"""

from pathlib import Path
from typing import Any

import numpy as np

from ptw.evals.bootstrap import Estimate
from ptw.evals.recommend import Recommended, Scorer
from ptw.evals.show import (
    differences_table,
    figures_table,
    first_figure,
    heading,
    notes,
    seeds_table,
    slices_table,
    spoken,
)
from ptw.pages.chart import Chart, Line, drawn
from ptw.pages.page import rendered

TEMPLATE = Path(__file__).with_name("page.html.jinja")
POINTS = 100  # of a curve over the catalogue
WIDEST = 98  # percent of a row: the largest dot is seen whole


def as_html(found: Recommended, seeds: bool = False) -> str:
    """The whole page."""
    tables = [("Figures", figures_table(found))]
    if seeds:
        tables.insert(0, ("Over seeds", seeds_table(found)))
    if len(found.runs) > 1:
        title = "Differences, case by case; a star: the interval excludes 0"
        tables.append((title, differences_table(found)))
    charts = [_recall(found), _concentration(found)]
    return rendered(
        TEMPLATE,
        {},
        title=" and ".join(found.runs),
        heading=heading(found),
        notes=notes(found),
        names=[scorer.name for scorer in found.scorers],
        charts=[chart for chart in charts if chart is not None],
        tables=tables,
        spreads=[
            ("coverage of the catalogue", _bars(found, f"coverage@{found.asked.top}")),
            ("novelty in bits", _bars(found, f"novelty@{found.asked.top}")),
        ],
        slices=slices_table(found, first_figure(found)),
        whiskers=_whiskers(found),
        figure=first_figure(found),
    )


def _recall(found: Recommended) -> Chart | None:
    cuts = range(1, max(20, found.asked.top) + 1)
    lines = [
        Line(scorer.name, [(cut, float((scorer.ranks_N <= cut).mean())) for cut in cuts], at)
        for at, scorer in enumerate(found.scorers)
    ]
    return drawn("recall by K", lines, lambda value: f"{value:.3g}", axis="K")


def _concentration(found: Recommended) -> Chart | None:
    """How much of what is recommended is popular; the targets' line is what users chose."""
    lines = [
        Line(scorer.name, _gathered(found, _recommended(scorer)), at)
        for at, scorer in enumerate(found.scorers)
    ]
    lines.append(Line("what came next", _gathered(found, found.targets_N), len(lines)))
    title = "share of recommendations in the most popular items"
    return drawn(title, lines, lambda value: f"{100 * value:.3g}%", axis="% of the catalogue")


def _recommended(scorer: Scorer) -> np.ndarray:
    return scorer.tops_NK[scorer.tops_NK >= 0]


def _gathered(found: Recommended, items: np.ndarray) -> list[tuple[float, float]]:
    count = len(found.known.counts_I)
    below = np.cumsum(np.bincount(found.known.places[items], minlength=count)) / max(1, len(items))
    ends = np.unique(np.linspace(1, count, min(count, POINTS)).round().astype(int))
    return [(100 * end / count, float(below[end - 1])) for end in ends]


def _bars(found: Recommended, figure: str) -> list[dict[str, Any]]:
    estimates = [found.figures[scorer.name][figure] for scorer in found.scorers]
    return _placed([(s.name, "", [e]) for s, e in zip(found.scorers, estimates, strict=True)])


def _whiskers(found: Recommended) -> list[dict[str, Any]]:
    figure = first_figure(found)
    return _placed(
        [
            (f"{one.key} {one.value}", f"{len(one.places):,}", [by[s.name][figure] for s in found.scorers])
            for one, by in found.by_slice
        ]
    )


def _placed(rows: list[tuple[str, str, list[Estimate]]]) -> list[dict[str, Any]]:
    """Each estimate's dot and whisker in percent of the largest."""
    told = [value for _, _, estimates in rows for one in estimates for value in (one.value, one.high)]
    most = max((value for value in told if np.isfinite(value)), default=1.0) or 1.0

    def at(value: float) -> float:
        return round(WIDEST * value / most, 2)

    return [
        {
            "name": name,
            "count": count,
            "dots": [
                {
                    "series": series,
                    "text": spoken(one),
                    "at": at(one.value),
                    "low": at(one.value if np.isnan(one.low) else one.low),
                    "high": at(one.value if np.isnan(one.high) else one.high),
                }
                for series, one in enumerate(estimates)
                if np.isfinite(one.value)
            ],
        }
        for name, count, estimates in rows
    ]
