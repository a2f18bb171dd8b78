"""How are measured recommendations told, to a person and to a program?"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ptw.evals.attributes import NONE
from ptw.evals.bootstrap import SHARE, Estimate
from ptw.evals.recommend import Recommended

Table = list[list[str]]  # a row of heads, then one a line


def spoken(estimate: Estimate) -> str:
    """0.3701 [0.3450, 0.3951]; without the interval where none is known."""
    if math.isnan(estimate.value):
        return "-"
    sure = "" if math.isnan(estimate.low) else f" [{estimate.low:.4f}, {estimate.high:.4f}]"
    return f"{estimate.value:.4f}{sure}"


def changed(estimate: Estimate) -> str:
    """With its sign, and a star where the interval excludes 0."""
    if math.isnan(estimate.value):
        return "-"
    sure = "" if math.isnan(estimate.low) else f" [{estimate.low:+.4f}, {estimate.high:+.4f}]"
    return f"{estimate.value:+.4f}{sure}{' *' if estimate.excludes_zero else ''}"


def figures_table(found: Recommended) -> Table:
    names = [scorer.name for scorer in found.scorers]
    rows = [
        [named(found, name), *(spoken(found.figures[scorer][name]) for scorer in names)]
        for name in found.figures[names[0]]
    ]
    return [["", *names], *rows]


def named(found: Recommended, figure: str) -> str:
    """As a table calls it: mrr, where some rank no more than their beams find, by how many these are."""
    widths = sorted({f"{width}" for width in found.beams.values()})
    return f"{figure} (beams: {', '.join(widths)})" if figure == "mrr" and widths else figure


def differences_table(found: Recommended) -> Table:
    names = list(found.differences)
    rows = [
        [named(found, name), *(changed(found.differences[scorer][name]) for scorer in names)]
        for name in found.scorers[0].values
    ]
    return [[f"less {found.runs[0]}", *names], *rows]


def slices_table(found: Recommended, figure: str) -> Table:
    """Of one figure, lest the table be endless; a program is told all."""
    names = [scorer.name for scorer in found.scorers]
    rows = [
        [f"{one.key} {one.value}", f"{len(one.places):,}", *(spoken(by[name][figure]) for name in names)]
        for one, by in found.by_slice
    ]
    return [[figure, "sequences", *names], *rows]


def seeds_table(found: Recommended) -> Table:
    """The runs as seeds of one: mean and standard deviation over them."""
    rows = [
        [named(found, name), f"{mean:.4f}", f"{deviation:.4f}", *(f"{value:.4f}" for value in values)]
        for name, mean, deviation, values in over_seeds(found)
    ]
    return [["", "mean", "deviation", *found.runs], *rows]


def over_seeds(found: Recommended) -> Iterator[tuple[str, float, float, list[float]]]:
    """Of each figure the mean, the sample's standard deviation, and each run's value."""
    for name in found.figures[found.runs[0]]:
        values = [found.figures[run][name].value for run in found.runs]
        yield name, float(np.mean(values)), float(np.std(values, ddof=1)), values


def as_text(found: Recommended, seeds: bool = False) -> str:
    """Tables, one below the other."""
    tables = [figures_table(found)]
    if seeds:
        tables.insert(0, seeds_table(found))
    elif len(found.runs) > 1:
        tables.append(differences_table(found))
    tables.append(slices_table(found, first_figure(found)))
    return "\n\n".join([f"{heading(found)}", *map(aligned, tables)])


def heading(found: Recommended) -> str:
    asked = found.asked
    shared = f"; {asked.new:.0%} of lists for items that came later" if asked.new else ""
    drawn = f", drawn at random from {found.drawn_from:,}," if found.drawn_from else ","
    return (
        f"{found.dataset}: the last item of {len(found.targets_N):,} sequences{drawn} "
        f"among {len(found.known.counts_I):,} items{shared}; brackets: {SHARE}% of {asked.draws:,} draws"
    )


def first_figure(found: Recommended) -> str:
    """The one that slices are looked at by."""
    return f"recall@{found.asked.top}"


def notes(found: Recommended) -> list[str]:
    """What a reader of the figures must know."""
    said = [*found.unsure]
    if found.attribute and found.asked.attribute is None:
        said.append(
            f"diversity and miscalibration are by {found.attribute}; --attribute names another, or {NONE}"
        )
    said += [
        f"mrr of {name} ends with its {width} beams: a target that they do not find adds nothing"
        for name, width in found.beams.items()
    ]
    if found.drawn_from:
        said.append(
            f"coverage is that of the lists of {len(found.targets_N):,} sequences; more would cover more"
        )
    if found.repeats:
        said.append(f"{found.repeats:,} targets stand in their own input, which no ranker here may recommend")
    if found.leaked:
        said.append(
            f"{found.leaked:,} targets were learnt: a row of the same id has them in its training part; "
            "give each id one row, or these figures flatter"
        )
    return said


def aligned(table: Table) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)) for row in table)
    return "\n".join(line.rstrip() for line in lines)


def as_json(found: Recommended, seeds: bool = False) -> dict[str, Any]:
    """All of it. Of one run its figures stand at the top too, and the baselines' behind their names."""
    flat: dict[str, Any] = {}
    if len(found.runs) == 1:
        for scorer, figures in found.figures.items():
            prefix = "" if scorer in found.runs else f"{scorer}_"
            flat |= {f"{prefix}{name}": one.value for name, one in figures.items()}
    values = {
        **flat,
        "sequences": len(found.targets_N),
        "drawn_from": found.drawn_from,
        "items": len(found.known.counts_I),
        "dataset": found.dataset,
        "runs": list(found.runs),
        "attribute": found.attribute,
        "repeats": found.repeats,
        "leaked": found.leaked,
        "notes": notes(found),
        "beams": dict(found.beams),
        "figures": told(found.figures),
        "differences": told(found.differences, differ=True),
        "slices": [
            {"key": one.key, "value": one.value, "sequences": len(one.places), "figures": told(by)}
            for one, by in found.by_slice
        ],
    }
    if seeds:
        values["seeds"] = {
            name: {"mean": mean, "deviation": deviation, "values": values}
            for name, mean, deviation, values in over_seeds(found)
        }
    return values


def told(
    figures: Mapping[str, Mapping[str, Estimate]], differ: bool = False
) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        scorer: {
            name: _number(one) | ({"excludes_zero": one.excludes_zero} if differ else {})
            for name, one in of.items()
        }
        for scorer, of in figures.items()
    }


def _number(estimate: Estimate) -> dict[str, Any]:
    """JSON has no NaN."""
    known = not math.isnan(estimate.low)
    value = None if math.isnan(estimate.value) else estimate.value
    return {"value": value, "interval": [estimate.low, estimate.high] if known else None}
