"""Which labels or numbers does a model give in place of words, and what does a row say of them?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptw.data.labelled import label_of
from ptw.data.messages import short
from ptw.data.pack import PackedRow
from ptw.data.sample import Label
from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.nn.head import CHUNK_ELEMENTS, Head
from ptw.ports.scores import Problem, Scores, problem_of, stored_names, stored_scores
from ptw.workspace.manifest import DatasetEntry
from ptw.workspace.problem import hint_of

WANTED: dict[Problem, str] = {
    "single_label_classification": "`label`, one of the names",
    "multi_label_classification": "`labels`, a list of names",
    "regression": "`number`",
}


@dataclass(frozen=True)
class Classes:
    """The names of the scores, in their order, and what the scores are."""

    names: tuple[str, ...]
    problem: Problem

    @classmethod
    def stored(cls, hf_config: Mapping[str, Any]) -> Classes | None:
        """Those of a checkpoint; None where it does not say that its scores are any."""
        problem, count = problem_of(hf_config), stored_scores(hf_config)
        if problem is None or count is None:
            return None
        return cls(stored_names(hf_config) or tuple(f"LABEL_{at}" for at in range(count)), problem)

    @property
    def scores(self) -> Scores:
        return Scores(len(self.names), names=self.names, problem=self.problem)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def place(self, name: str) -> int:
        if name not in self._places:
            raise PtwError(f"{name!r} is no label here; {hint_of(name, list(self.names), 'labels')}")
        return self._places[name]

    def targets(self, rows: Iterable[PackedRow], device: torch.device) -> Tensor:
        """Of each sample: (N,) the place of its label, (N, L) which labels it has, or (N, L) its numbers."""
        found = [
            self.target(label, sample)
            for row in rows
            for sample, label in zip(row.samples, row.labels, strict=True)
        ]
        if self.problem == "single_label_classification":
            return torch.tensor(found, dtype=torch.int64, device=device)
        targets_NL = torch.zeros(len(found), len(self.names))
        for row_L, target in zip(targets_NL, found, strict=True):
            if self.problem == "regression":
                row_L[:] = torch.tensor(target)
            else:
                row_L[target] = 1.0
        return targets_NL.to(device)

    def target(self, label: Label, place: str) -> Any:
        """A label's place, the places of labels, or numbers in their order; PtwError names the row."""
        try:
            if self.problem == "single_label_classification" and isinstance(label, str):
                return self.place(label)
            if self.problem == "multi_label_classification" and isinstance(label, tuple):
                return [self.place(name) for name in label]
            if self.problem == "regression" and isinstance(label, Mapping):
                return self._numbers(label)
            if self.problem == "regression" and isinstance(label, float) and len(self.names) == 1:
                return [label]
        except PtwError as error:
            raise PtwError(f"{place}: {error}") from error
        several = f", an object with {', '.join(self.names[:3])}" if len(self.names) > 1 else ""
        wanted = WANTED[self.problem] + (several if self.problem == "regression" else "")
        raise PtwError(f"{place}: its label is {short(label)}, and this head learns from {wanted}")

    def _numbers(self, label: Mapping[str, float]) -> list[float]:
        if odd := sorted(set(label) ^ set(self.names)):
            given = ", ".join(sorted(label))
            raise PtwError(f"`number` has the keys {given}, which differ in {odd[0]}; `labels` names them")
        return [label[name] for name in self.names]

    def known(self, root: Path, dataset: DatasetEntry) -> tuple[np.ndarray, int]:
        """(L,) in how many rows of a dataset each label stands, of numbers their means; and of how many rows.

        No text is looked at. PtwError names a row with another label.
        """
        totals_L, count = np.zeros(len(self.names)), 0
        for share in dataset.parts:
            for row in rows(root, share.dataset.source):
                try:
                    label = label_of(row.value)
                except PtwError as error:
                    raise PtwError(f"{row.place}: {error}") from error
                target, count = self.target(label, row.place), count + 1
                if self.problem == "regression":
                    totals_L += target
                else:
                    totals_L[target] += 1
        return (totals_L / count if self.problem == "regression" else totals_L), count


def read_names(root: Path, file: str) -> tuple[str, ...]:
    """The `id` of each row of a file, in order; PtwError for a row without one, or with one twice."""
    found: dict[str, None] = {}
    for row in rows(root, (file,)):
        value = row.value.get("id")
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise PtwError(
                f"{row.place}: a catalogue's row needs an `id`, a name or number; it has {short(value)}"
            )
        if str(value) in found:
            raise PtwError(f"{row.place}: id {str(value)!r} stands twice; give each row an id of its own")
        found[str(value)] = None
    return tuple(found)


@torch.no_grad()
def ranks_of(head: Head, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """(N,) ranks of the targets among all labels, from 1; of equal scores it is the last, NaN finds none."""
    size = max(1, CHUNK_ELEMENTS // head.vocabulary)
    found = [targets_N.new_empty(0)]
    for hidden_CD, targets_C in zip(hidden_ND.split(size), targets_N.split(size), strict=True):
        scores_CL = head.wide_logits(hidden_CD)
        own_C1 = scores_CL.gather(1, targets_C[:, None])
        better_C = (~(scores_CL < own_C1)).sum(-1)  # the target itself among them
        found.append(torch.where(own_C1[:, 0].isfinite(), better_C, len(scores_CL[0]) + 1))
    return torch.cat(found)


def found_at(ranks_N: np.ndarray, cuts: Sequence[int]) -> dict[str, np.ndarray]:
    """recall@k and ndcg@k of one target a case, and its reciprocal rank."""
    found = {}
    for cut in cuts:
        found[f"recall@{cut}"] = (ranks_N <= cut).astype(float)
        found[f"ndcg@{cut}"] = np.where(ranks_N <= cut, 1 / np.log2(ranks_N + 1.0), 0.0)
    return {**found, "mrr": 1 / ranks_N}
