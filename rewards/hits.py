"""How much of a list of titles, one a line, is among those of the row, `relevant`: its NDCG.

Of the first `titles` of it, where the row says how many; else of all.
"""

from collections.abc import Mapping
from math import log2
from typing import Any

from ptw.rl.titles import plain


def reward(answer: str, row: Mapping[str, Any]) -> float:
    """From 0 to 1; a title that stands twice counts once."""
    titles = list(dict.fromkeys(filter(None, map(plain, answer.split("\n")))))[: row.get("titles")]
    gain = sum(relevance(title, row) / log2(at + 2) for at, title in enumerate(titles))
    return gain / sum(1 / log2(at + 2) for at in range(max(1, len(row["relevant"]))))


def relevance(title: str, row: Mapping[str, Any]) -> float:
    """Of one item, for recipes that judge each rank."""
    return float(plain(title) in {plain(one) for one in row["relevant"]})
