"""How do items that came after a training get into the lists of its model?

It learnt nothing of their codes, so that beams over all items hardly ever end at one. A share of each list is
theirs, as of TIGER's cold start (Rajput and others, 2023), and the model ranks them among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptw.runs.open import Opened


@dataclass(frozen=True)
class Later:
    """Which items, and how many of a list's places are theirs: 0.1 is every tenth."""

    items: frozenset[str]
    share: float


def later_of(opened: Opened, share: float) -> Later | None:
    """None where they get no places of their own, or there are none."""
    return Later(opened.later, share) if opened.later and share > 0 else None


def note_on(opened: Opened, share: float) -> str | None:
    """What someone who asks for lists should know of these items."""
    if opened.later and not share:
        return (
            f"{opened.name} learnt nothing of {len(opened.later):,} items that came since, and seldom says "
            "one; --new 0.1 gives them every tenth place, or train again"
        )
    if share and not opened.later:
        return f"--new {share:g}: no items came after the training of {opened.name}, so nothing changes"
    return None


def interleaved(
    earlier: tuple[np.ndarray, np.ndarray], later: tuple[np.ndarray, np.ndarray], share: float
) -> tuple[np.ndarray, np.ndarray]:
    """(B, W) items and scores of two rankings as one: the later ones stand at the share's multiples.

    An item of -1 is none: where one ranking ends the other goes on.
    """
    items_BX, scores_BX = (np.concatenate(both, axis=1) for both in zip(earlier, later, strict=True))
    places_W = np.arange(1, earlier[0].shape[1] + 1)
    with np.errstate(divide="ignore"):
        wanted_X = np.concatenate([places_W / np.float64(1 - share), places_W / share])
    wanted_BX = np.where(items_BX < 0, np.inf, wanted_X)
    order_BW = wanted_BX.argsort(axis=1, kind="stable")[:, : len(places_W)]
    return np.take_along_axis(items_BX, order_BW, 1), np.take_along_axis(scores_BX, order_BW, 1)
