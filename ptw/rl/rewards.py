"""What is an answer worth? Functions of the workspace say, each a file of rewards/."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.workspace import rooms

Row = Mapping[str, Any]  # of the dataset of prompts, with all of its keys
Reward = Callable[[str, Row], float]


def open_rewards(root: Path, names: Sequence[str]) -> dict[str, Reward]:
    """By name; PtwError for one that is not there, or has no `reward(answer, row)`."""
    there = rooms.files(root, "rewards")
    found = {}
    for name in names:
        if name not in there:
            known = ", ".join(there) or "none"
            raise PtwError(f"settings: rewards: there is no rewards/{name}.py; there are {known}")
        function = getattr(rooms.load(there[name]), "reward", None)
        if not callable(function):
            raise PtwError(f"{there[name]}: has no `def reward(answer: str, row: dict) -> float`")
        found[name] = function
    return found


def worth(rewards: Mapping[str, Reward], answer: str, row: Row, place: str) -> dict[str, float]:
    """By name; PtwError names the row for what is no number, or is raised."""
    found = {}
    for name, function in rewards.items():
        try:
            value = float(function(answer, row))
        except Exception as error:
            raise PtwError(
                f"rewards/{name}.py: {place}: {type(error).__name__}: {error}; the answer was {answer[:80]!r}"
            ) from error
        if not math.isfinite(value):
            raise PtwError(
                f"rewards/{name}.py: {place}: {value} is no reward; the answer was {answer[:80]!r}"
            )
        found[name] = value
    return found
