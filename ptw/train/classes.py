"""Which classes or numbers does a recipe's head give, and what is learnt of them?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.evals.classes import Classes, found_at, ranks_of, read_names
from ptw.nn.head import Head
from ptw.nn.sampled import Drawn, Sampler
from ptw.ports.scores import Problem
from ptw.train import demand
from ptw.train.plan import Plan
from ptw.train.settings import SampledSettings

if TYPE_CHECKING:
    from ptw.train.run import Run

Kind = Literal["items", "labels", "number"]
Drawing = Callable[[], Drawn | None]

PROBLEMS: dict[Kind, Problem] = {
    "items": "single_label_classification",
    "labels": "multi_label_classification",
    "number": "regression",
}
CUTS = (1, 10)


def demand_sense(head: Kind, catalogue: str | None, labels: Sequence[str] | None) -> None:
    """PtwError unless exactly one of them names what the head gives; of a number neither need."""
    if catalogue is not None and (labels is not None or head == "number"):
        why = "labels names them already" if labels is not None else "numbers are named by labels = [...]"
        demand.refuse("catalogue", catalogue, f"{why}; leave one of them out")
    if head != "number" and catalogue is None and labels is None:
        why = 'it needs catalogue = "data/items.jsonl", a file with an `id` a row, or labels = ["...", "..."]'
        demand.refuse("head", head, why)
    if labels is not None and len(set(labels)) < len(labels):
        demand.refuse("labels", labels, "a name stands twice")


def classes_of(plan: Plan, head: Kind, catalogue: str | None, labels: Sequence[str] | None) -> Classes:
    """What the head gives, once every row of the plan's datasets is known to speak of nothing else.

    PtwError names a row that does: not after hours of training.
    """
    names = read_names(plan.root, catalogue) if catalogue is not None else tuple(labels or ("number",))
    classes = Classes(names, PROBLEMS[head])
    for name in dict.fromkeys((plan.dataset, plan.eval_dataset)):
        if name is not None:
            classes.known(plan.root, plan.datasets[name])
    return classes


def drawing(run: Run, settings: SampledSettings, counts: Callable[[], np.ndarray]) -> Drawing:
    """What a sampled softmax compares with in the step that is computed; None where all classes are.

    It follows from the seed and the step alone: all passes of all workers have the same, and so has a run
    that goes on. counts: (V,) how often each class is a target; drawn by popularity, each counts one more.
    """
    if settings.sampled is None:
        return lambda: None
    classes = run.loaded.module.head().vocabulary  # type: ignore[operator]
    if settings.sampled > classes:
        demand.refuse("sampled", settings.sampled, f"there are {classes:,} classes; leave it out")
    popular = settings.sampled_by == "popularity"
    weights_V = torch.from_numpy(counts() + 1.0) if popular else torch.ones(classes)
    sampler = Sampler(weights_V, settings.sampled, settings.seed)
    of_step = lru_cache(maxsize=1)(lambda step: sampler.of_step(step).to(run.group.device))
    return lambda: of_step(run.steps_done)


def label_counts(plan: Plan, classes: Classes) -> np.ndarray:
    """(L,) of the plan's dataset."""
    return classes.known(plan.root, plan.datasets[plan.dataset])[0]


def target_counts(run: Run) -> np.ndarray:
    """(V,) how often each token is a target in an epoch of the plan's dataset."""
    size = run.loaded.module.head().vocabulary  # type: ignore[operator]
    counts_V = np.zeros(size, np.int64)
    for row in run.rows_ahead(held_out_too=False):
        targets = row.targets[row.targets >= 0]
        if targets.size and int(targets.max()) >= size:
            raise PtwError(f"token {targets.max()} is outside the model's vocabulary of {size}")
        counts_V += np.bincount(targets, minlength=size)
    return counts_V


def found(head: Head, hidden_ND: Tensor, targets_N: Tensor) -> dict[str, Tensor]:
    """Of each case recall, ndcg and the reciprocal rank among all classes."""
    ranks_N = ranks_of(head, hidden_ND, targets_N).cpu().numpy()
    return {name: torch.from_numpy(values_N) for name, values_N in found_at(ranks_N, CUTS).items()}
