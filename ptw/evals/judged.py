"""How right are labels and numbers that a model gives? Figures of cases, each counted so many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Figures = Callable[[np.ndarray], np.ndarray]  # of (D, C) how often each case counts: (D, F)

OF_LABELS = ("micro_f1", "macro_f1", "mean_average_precision")
OF_NUMBERS = ("mse", "mae", "spearman")


def label_figures(scores_CL: np.ndarray, true_CL: np.ndarray, said_CL: np.ndarray) -> Figures:
    """F1 of all labels together, its mean over labels, and the mean of their average precisions.

    Means are over labels that stand in the cases; the average precision is that of all thresholds between
    different scores.
    """
    right_CL = (said_CL & true_CL).astype(float)
    precise = [weighted_precision(scores_CL[:, at], true_CL[:, at]) for at in range(true_CL.shape[1])]

    def figures(times_DC: np.ndarray) -> np.ndarray:
        right_DL, said_DL, true_DL = (times_DC @ one.astype(float) for one in (right_CL, said_CL, true_CL))
        f1_DL = f1(right_DL, said_DL, true_DL)
        precision_DL = np.stack([of_label(times_DC) for of_label in precise], -1)
        there_DL = true_DL > 0
        micro_D = f1(right_DL.sum(-1), said_DL.sum(-1), true_DL.sum(-1))
        return np.stack([micro_D, _mean(f1_DL, there_DL), _mean(precision_DL, there_DL)], -1)

    return figures


def f1(right: np.ndarray, said: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Of counts; 0 where nothing is right, NaN where nothing is said and nothing is true."""
    return 2 * right / np.where(said + true > 0, said + true, np.nan)


def weighted_precision(scores_C: np.ndarray, true_C: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """(D,) average precision of a label by (D, C) how often each case counts; NaN where it never stands."""
    order_C = np.argsort(-scores_C, kind="stable")
    starts_U = _starts(scores_C[order_C])
    sorted_C = true_C[order_C].astype(float)

    def average(times_DC: np.ndarray) -> np.ndarray:
        times_DC = times_DC[:, order_C]
        all_DU = np.add.reduceat(times_DC, starts_U, axis=1).cumsum(-1)
        right_DU = np.add.reduceat(times_DC * sorted_C, starts_U, axis=1)
        precision_DU = right_DU.cumsum(-1) / np.maximum(all_DU, 1)
        total_D = right_DU.sum(-1)
        return (precision_DU * right_DU).sum(-1) / np.where(total_D > 0, total_D, np.nan)

    return average


def number_figures(said_CL: np.ndarray, true_CL: np.ndarray) -> Figures:
    """Of each number in turn the mean squared error, the mean absolute one, and Spearman's correlation."""
    away_CL = said_CL - true_CL
    ranked = [
        (weighted_ranks(said_CL[:, at]), weighted_ranks(true_CL[:, at])) for at in range(true_CL.shape[1])
    ]

    def figures(times_DC: np.ndarray) -> np.ndarray:
        total_D1 = times_DC.sum(-1, keepdims=True)
        squared_DL, absolute_DL = times_DC @ away_CL**2 / total_D1, times_DC @ np.abs(away_CL) / total_D1
        spearman_DL = np.stack(
            [correlation(said(times_DC), true(times_DC), times_DC) for said, true in ranked], -1
        )
        return np.stack([squared_DL, absolute_DL, spearman_DL], -1).reshape(len(times_DC), -1)

    return figures


def weighted_ranks(values_C: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """(D, C) ranks by (D, C) how often each case counts; equal values share the mean of their ranks."""
    order_C = np.argsort(values_C, kind="stable")
    starts_U = _starts(values_C[order_C])
    group_C = np.empty(len(values_C), np.int64)
    group_C[order_C] = np.repeat(np.arange(len(starts_U)), np.diff([*starts_U, len(values_C)]))

    def ranks(times_DC: np.ndarray) -> np.ndarray:
        counts_DU = np.add.reduceat(times_DC[:, order_C], starts_U, axis=1)
        ranks_DU = counts_DU.cumsum(-1) - (counts_DU - 1) / 2
        return np.asarray(ranks_DU[:, group_C])

    return ranks


def correlation(left_DC: np.ndarray, right_DC: np.ndarray, times_DC: np.ndarray) -> np.ndarray:
    """(D,) Pearson's, of cases that count so often; NaN where one side is all alike."""
    total_D1 = times_DC.sum(-1, keepdims=True)
    left_DC = left_DC - (times_DC * left_DC).sum(-1, keepdims=True) / total_D1
    right_DC = right_DC - (times_DC * right_DC).sum(-1, keepdims=True) / total_D1
    scale_D = np.sqrt((times_DC * left_DC**2).sum(-1) * (times_DC * right_DC**2).sum(-1))
    known_D = scale_D > 1e-9 * total_D1[:, 0]
    return (times_DC * left_DC * right_DC).sum(-1) / np.where(known_D, scale_D, np.nan)


def number_names(names: Sequence[str]) -> list[str]:
    """Of the figures, in their order; of several numbers each with its number's name."""
    return [f"{figure} {name}" if len(names) > 1 else figure for name in names for figure in OF_NUMBERS]


def _starts(sorted_C: np.ndarray) -> np.ndarray:
    """Where each different value begins."""
    return np.flatnonzero(np.concatenate([[True], sorted_C[1:] != sorted_C[:-1]]))


def _mean(values_DL: np.ndarray, there_DL: np.ndarray) -> np.ndarray:
    kept_DL = np.where(there_DL, np.nan_to_num(values_DL), 0.0)
    count_D = there_DL.sum(-1)
    return kept_DL.sum(-1) / np.where(count_D > 0, count_D, np.nan)
