"""How are measured items, labels and numbers told, to a person and to a program?"""

from __future__ import annotations

import math
from typing import Any

from ptw.evals.bootstrap import DRAWS, SHARE
from ptw.evals.classified import Classified, said_of
from ptw.evals.show import Table, aligned, spoken, told

MOST = 20  # labels that a person is told of


def as_text(found: Classified) -> str:
    heading = (
        f"{found.dataset}: {said_of(found.classes)} for each of {found.rows:,} rows; "
        f"brackets: {SHARE}% of {DRAWS:,} draws"
    )
    tables = [figures_table(found), *([labels_table(found)] if found.by_label else [])]
    left_out = len(found.by_label) - MOST
    more = [f"{left_out:,} further labels: --json"] if left_out > 0 else []
    return "\n\n".join([heading, *map(aligned, tables), *more])


def figures_table(found: Classified) -> Table:
    scorers = list(found.figures)
    names = list(found.figures[scorers[0]])
    return [
        ["", *scorers],
        *([name, *(spoken(found.figures[one][name]) for one in scorers)] for name in names),
    ]


def labels_table(found: Classified) -> Table:
    """The most frequent first."""
    heads = ["label", "rows", "said", "precision", "recall", "f1", "average precision"]
    ordered = sorted(found.by_label, key=lambda one: -one.rows)[:MOST]
    return [
        heads,
        *(
            [one.label, f"{one.rows:,}", f"{one.said:,}"]
            + [_short(value) for value in (one.precision, one.recall, one.f1, one.average_precision)]
            for one in ordered
        ),
    ]


def as_json(found: Classified) -> dict[str, Any]:
    """All of it; the run's own figures stand at the top too, and the baseline's behind its name."""
    flat: dict[str, Any] = {}
    for number, (scorer, figures) in enumerate(found.figures.items()):
        prefix = f"{scorer}_" if number else ""
        flat |= {
            f"{prefix}{name}": None if math.isnan(one.value) else one.value for name, one in figures.items()
        }
    by_label = [
        {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in vars(one).items()
        }
        for one in found.by_label
    ]
    return {
        **flat,
        "rows": found.rows,
        "dataset": found.dataset,
        "problem": found.classes.problem,
        "classes": len(found.classes.names),
        "figures": told(found.figures),
        **({"labels": by_label} if by_label else {}),
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
