"""What is an answer worth? Functions of the workspace say, each a file of rewards/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptw.rl.caller import Caller, files_of

Row = Mapping[str, Any]  # of the dataset of prompts, with all of its keys
Messages = Sequence[Mapping[str, Any]]  # of the whole conversation, the answer is the last


class Rewards:
    """The files of these names; PtwError for one that is not there, or has no `reward(answer, row)`."""

    def __init__(self, root: Path, names: Sequence[str], caller: Caller) -> None:
        self.files = files_of(root, "rewards", names, "reward", "answer: str, row: dict")
        self._caller = caller

    def __call__(
        self, answer: str, row: Row, messages: Messages, place: str, *, ended: bool = True
    ) -> dict[str, float]:
        """By name. A reward may take `messages`, the conversation, and `ended`: the answer was not cut off.

        PtwError names file and row.
        """
        found = {}
        for name, file in self.files.items():
            beside = {"messages": list(messages), "ended": ended}
            found[name] = self._caller.number(file, "reward", place, answer, dict(row), **beside)
        return found
