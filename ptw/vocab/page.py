"""What does a page show of a vocabulary, with a picture of its tree?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptw.pages.page import rendered
from ptw.vocab.report import Report

TEMPLATE = Path(__file__).with_name("page.html.jinja")
WIDTH, ROW = 1000.0, 34.0  # of the drawing; of a level in it
THINNEST = 0.4  # of what is still drawn


@dataclass(frozen=True)
class Block:
    """A prefix: where it stands, how many items have it, and its hue, which is that of its first code."""

    left: float
    top: float
    width: float
    hue: int
    told: str


def as_html(report: Report) -> str:
    ids, found = report.ids, report.figures
    blocks = tree(report)
    return rendered(
        TEMPLATE,
        {},
        report=report,
        facts=report.facts(),
        tiles=[
            ("items", f"{found['items']:,}"),
            ("moved", f"{found['moved']:.1%}"),
            ("left over", f"{found['left_over']:.1%}"),
            ("codes", f"{ids.levels} x {ids.codebook_size}"),
        ],
        blocks=blocks,
        height=ROW * ids.levels,
        row=ROW,
    )


def tree(report: Report) -> list[Block]:
    """Prefixes of each level side by side, below the one that they begin with; as wide as their items."""
    codes_NL = report.ids.codes_NL
    order = np.lexsort(codes_NL.T[::-1])
    ordered_NL = codes_NL[order]
    blocks = []
    for level in range(codes_NL.shape[1]):
        changes = (ordered_NL[1:, : level + 1] != ordered_NL[:-1, : level + 1]).any(-1)
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
        ends = np.concatenate([starts[1:], [len(ordered_NL)]])
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            width = WIDTH * (end - start) / len(ordered_NL)
            if width >= THINNEST:
                prefix = ".".join(map(str, ordered_NL[start, : level + 1].tolist()))
                hue = int(ordered_NL[start, 0]) * 137 % 360  # neighbours differ
                told = f"{prefix}: {end - start:,} items"
                left = WIDTH * start / len(ordered_NL)
                blocks.append(Block(round(left, 2), ROW * level, round(width, 2), hue, told))
    return blocks
