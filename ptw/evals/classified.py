"""How right is a model of items, labels or numbers, beside what the training data's frequencies say alone?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.evals.bootstrap import DRAWS, Estimate, estimated, estimates
from ptw.evals.classes import Classes, found_at, ranks_of
from ptw.evals.evaluate import device_of, tokenizer_of, window_of
from ptw.evals.judged import OF_LABELS, f1, label_figures, number_figures, number_names, weighted_precision
from ptw.evals.loss import ROWS_AT_ONCE
from ptw.evals.rows import forward_of, groups, last
from ptw.runs.open import Opened
from ptw.workspace.manifest import DatasetEntry, Workspace

CUTS = (1, 5, 10)
BASELINES = {
    "single_label_classification": "popularity",
    "multi_label_classification": "frequencies",
    "regression": "mean",
}

Told = dict[str, Estimate]


@dataclass(frozen=True)
class OfLabel:
    """What came of one label: in how many rows it stands, in how many it is said, and how right that is."""

    label: str
    rows: int
    said: int
    precision: float
    recall: float
    f1: float
    average_precision: float


@dataclass(frozen=True)
class Classified:
    """Figures of the model by its name, then of the baseline where the training data is known."""

    dataset: str
    rows: int
    classes: Classes
    figures: Mapping[str, Told]
    by_label: tuple[OfLabel, ...] = ()


def classified(
    workspace: Workspace, opened: Opened, entry: DatasetEntry, cuts: Sequence[int] = CUTS
) -> Classified:
    """Measured on every row of a dataset; PtwError for rows that speak of other labels."""
    classes = Classes.stored(opened.loaded.hf_config)
    assert classes is not None
    if any(share.dataset.format != "labelled" for share in entry.parts):
        raise PtwError(
            f"{opened.name} gives {said_of(classes)}, and dataset {entry.name} is not labelled: name "
            "one of format labelled"
        )
    classes.known(workspace.root, entry)  # a row with another label is told before anything is computed
    known = _training(workspace, opened, classes)
    if classes.problem == "single_label_classification":
        return _items(workspace, opened, entry, classes, known, cuts)
    scores_CL, true_CL = _scored(workspace, opened, entry, classes)
    baseline = {} if known is None else {BASELINES[classes.problem]: np.tile(known, (len(true_CL), 1))}
    if classes.problem == "regression":
        names, by_name = number_names(classes.names), {opened.name: scores_CL, **baseline}
        told = {
            name: _estimated(names, number_figures(said_CL, true_CL), len(true_CL))
            for name, said_CL in by_name.items()
        }
        return Classified(entry.name, len(true_CL), classes, told)
    truth_CL = true_CL > 0
    told = {opened.name: _labels(scores_CL, truth_CL, scores_CL > 0)}
    told |= {name: _labels(shares, truth_CL, shares > 0.5) for name, shares in baseline.items()}
    return Classified(
        entry.name, len(true_CL), classes, told, tuple(_by_label(classes.names, scores_CL, truth_CL))
    )


def said_of(classes: Classes) -> str:
    """In words."""
    return {
        "single_label_classification": f"one of {len(classes.names):,} items",
        "multi_label_classification": f"any of {len(classes.names):,} labels",
        "regression": "a number" if len(classes.names) == 1 else f"{len(classes.names):,} numbers",
    }[classes.problem]


def _training(workspace: Workspace, opened: Opened, classes: Classes) -> np.ndarray | None:
    """(L,) of the run's training data; None where it is not known.

    Of items how often each is the label, of labels their shares of the rows, of numbers their means.
    """
    learnt = workspace.datasets.get(str(opened.plan["dataset"])) if opened.plan else None
    if learnt is None or any(share.dataset.format != "labelled" for share in learnt.parts):
        return None
    known_L, rows = classes.known(workspace.root, learnt)
    return known_L / rows if classes.problem == "multi_label_classification" else known_L


def _items(
    workspace: Workspace,
    opened: Opened,
    entry: DatasetEntry,
    classes: Classes,
    known: np.ndarray | None,
    cuts: Sequence[int],
) -> Classified:
    head = opened.loaded.module.head()  # type: ignore[operator]
    ranks, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for hidden_ND, targets_N in _computed(workspace, opened, entry, classes):
        ranks.append(ranks_of(head, hidden_ND, targets_N).cpu().numpy())
        places.append(targets_N.cpu().numpy())
    ranks_C, places_C = np.concatenate(ranks), np.concatenate(places)
    by_name = {opened.name: ranks_C}
    if known is not None:
        order = np.argsort(-known, kind="stable")
        rank_I = np.empty(len(order), np.int64)
        rank_I[order] = np.arange(1, len(order) + 1)
        by_name[BASELINES[classes.problem]] = rank_I[places_C]
    told = {}
    for name, ranks_N in by_name.items():
        values = found_at(ranks_N, [cut for cut in cuts if cut <= len(classes.names)])
        told[name] = dict(zip(values, estimates(np.stack(list(values.values()), -1)), strict=True))
    return Classified(entry.name, len(ranks_C), classes, told)


def _scored(
    workspace: Workspace, opened: Opened, entry: DatasetEntry, classes: Classes
) -> tuple[np.ndarray, np.ndarray]:
    """(C, L) scores, and what is true."""
    head = opened.loaded.module.head()  # type: ignore[operator]
    scores, true = [np.empty((0, len(classes.names)))], [np.empty((0, len(classes.names)))]
    with torch.no_grad():
        for hidden_ND, targets_NL in _computed(workspace, opened, entry, classes):
            scores.append(head.wide_logits(hidden_ND).double().cpu().numpy())
            true.append(targets_NL.double().cpu().numpy())
    return np.concatenate(scores), np.concatenate(true)


@torch.no_grad()
def _computed(
    workspace: Workspace, opened: Opened, entry: DatasetEntry, classes: Classes
) -> Iterator[tuple[Tensor, Tensor]]:
    """Hidden states of the documents' last tokens and what their rows say, some at a time."""
    tokenizer, device = tokenizer_of(opened), device_of(opened)
    stream = Stream(
        workspace.root, entry, tokenizer, window=window_of(opened), seed=0, epochs=1, shuffle=False
    )
    for rows in groups(stream, ROWS_AT_ONCE):
        forward = forward_of(rows, device)
        hidden_BTD = opened.loaded.module(forward.ids_BT, forward.layout)
        yield last(hidden_BTD, forward, tokenizer.pad_id), classes.targets(rows, device)


def _labels(scores_CL: np.ndarray, true_CL: np.ndarray, said_CL: np.ndarray) -> Told:
    return _estimated(OF_LABELS, label_figures(scores_CL, true_CL, said_CL), len(true_CL))


def _estimated(
    names: Sequence[str], figures: Callable[[np.ndarray], np.ndarray], cases: int, draws: int = DRAWS
) -> Told:
    return dict(zip(names, estimated(figures, cases, draws), strict=True))


def _by_label(names: Iterable[str], scores_CL: np.ndarray, true_CL: np.ndarray) -> Iterator[OfLabel]:
    once = np.ones((1, len(true_CL)))
    for at, name in enumerate(names):
        scores_C, true_C = scores_CL[:, at], true_CL[:, at]
        said_C = scores_C > 0
        right, said, true = (float(one.sum()) for one in (said_C & true_C, said_C, true_C))
        yield OfLabel(
            label=name,
            rows=int(true),
            said=int(said),
            precision=right / said if said else float("nan"),
            recall=right / true if true else float("nan"),
            f1=float(f1(np.array(right), np.array(said), np.array(true))),
            average_precision=float(weighted_precision(scores_C, true_C)(once)[0]),
        )
