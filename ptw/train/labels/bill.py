"""What has a run cost that asks an endpoint, and may it ask on? Also after a kill amid a request."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.runs import lines
from ptw.train.group import Group
from ptw.train.labels.store import Key, Stage, cut
from ptw.workspace.manifest import ModelEntry

ASKED = "asked-*.jsonl"
MILLION = 1e6


@dataclass(frozen=True)
class Price:
    """Dollars a token."""

    input: float
    output: float

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return input_tokens * self.input + output_tokens * self.output

    def most(self, messages: Any, most_tokens: int) -> float:
        """What an answer may cost: no tokenizer makes more tokens than there are bytes."""
        return self.of(len(json.dumps(messages, ensure_ascii=False).encode("utf-8", "replace")), most_tokens)


def price_of(model: ModelEntry, budget_usd: float | None) -> Price | None:
    """None where the model has no price; PtwError: a budget needs one."""
    if model.usd_per_million_input is None or model.usd_per_million_output is None:
        if budget_usd is not None:
            hint = f"set usd_per_million_input and usd_per_million_output in [models.{model.name}]"
            raise PtwError(f"settings: budget_usd = {budget_usd}: model {model.name} has no prices; {hint}")
        return None
    return Price(model.usd_per_million_input / MILLION, model.usd_per_million_output / MILLION)


class Bill:
    """Each try is written down with what it may cost before it is made.

    One whose answer is lost, because nobody came back or because the run was killed, counts as what it may
    have cost, so that no budget is exceeded; one that failed as what the endpoint counts, or nothing. What is
    left of it is shared out evenly to the workers.
    """

    def __init__(self, folder: Path, group: Group, stage: Stage, budget_usd: float | None) -> None:
        self._own = folder / f"asked-{group.rank:05d}.jsonl"
        cut(self._own)
        group.wait()
        labelled = {(said["row"], said["answer"]): said["usd"] for said in stage if "usd" in said}
        self.usd = sum(labelled.values()) + _lost(folder, labelled)  # of all workers, until now
        group.wait()  # nobody asks before all have read
        self._left = None if budget_usd is None else (budget_usd - self.usd) / group.world
        self._spent = self._reserved = self._told = 0.0
        self._lock = threading.Lock()

    def affords(self, most: float) -> bool:
        return self._left is None or self._spent + self._reserved + most <= self._left

    def announce(self, key: Key, most: float) -> bool:
        """A try that may cost so much; False: there is no money for it."""
        with self._lock:
            if not self.affords(most):
                return False
            self._reserved += most
        if most:
            lines.append(self._own, {"row": key[0], "answer": key[1], "most": most})
        return True

    def settle(self, key: Key, most: float, usd: float, known: bool = False) -> None:
        """The try has cost this; known: exactly, though no label will say so."""
        with self._lock:
            self._reserved -= most
            self._spent += usd
        if known and most:
            lines.append(self._own, {"row": key[0], "answer": key[1], "cost": usd})

    def since(self) -> float:
        """What this worker has spent since it was asked last."""
        with self._lock:
            new, self._told = self._spent - self._told, self._spent
        return new


def _lost(folder: Path, labelled: Mapping[Key, float]) -> float:
    """What the tries of earlier lives have cost, or may have, that no label speaks of."""
    asked: defaultdict[Key, list[float]] = defaultdict(list)
    for path in sorted(folder.glob(ASKED)):
        for line in lines.read(path)[0]:
            _take(asked[line["row"], line["answer"]], line)
    # a label says what the last try for it has cost
    return sum(sum(tries[:-1] if key in labelled else tries) for key, tries in asked.items())


def _take(tries: list[float], line: Mapping[str, Any]) -> None:
    if "most" in line:
        tries.append(line["most"])
    elif tries:
        # before the costs of failed tries were written down, it was said of one that it was free
        tries[-1] = 0.0 if "free" in line else line["cost"]
