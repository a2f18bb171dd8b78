"""How good are the semantic IDs of a catalogue?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptw.vocab.unique import Placed

PAIRS = 20_000  # of items, that attributes are compared over


def figures(
    placed: Placed, codebook_size: int, attributes: Mapping[str, Sequence[Sequence[str]]]
) -> dict[str, Any]:
    """What `ptw vocab` tells, and keeps: numbers of items, shares, codes that are used.

    coherence: of pairs of items with the same first codes, the share that have a value of the attribute in
    common, beside that of pairs drawn from all; by how many codes are the same.
    """
    codes_NL = placed.codes_NL
    items = len(codes_NL)
    levels = [_used(codes_NL[:, level], codebook_size) for level in range(codes_NL.shape[1])]
    return {
        "items": items,
        "moved": round(float(placed.moved_N.double().mean()), 6),
        "largest_bucket": placed.largest,
        "left_over_before_moving": round(placed.before, 6),
        "left_over": round(placed.after, 6),
        "levels": levels,
        "coherence": {key: coherence(codes_NL, values) for key, values in attributes.items()},
    }


def coherence(codes_NL: Tensor, values: Sequence[Sequence[str]]) -> dict[str, float]:
    """By how many first codes two items share: `0` is any two items; left out where no two share so many."""
    generator = np.random.default_rng(0)
    sets = [set(own) for own in values]
    known = np.array([row for row, own in enumerate(sets) if own])
    found = {}
    for depth in range(codes_NL.shape[1]):
        pairs = _pairs(codes_NL[known, :depth], generator) if len(known) > 1 else np.empty((0, 2), np.int64)
        if len(pairs):
            common = [bool(sets[known[one]] & sets[known[other]]) for one, other in pairs]
            found[str(depth)] = round(float(np.mean(common)), 4)
    return found


def churn(before_NL: Tensor, after_NL: Tensor) -> dict[str, float]:
    """Of items that were there before: the share whose first codes are others now, by how many codes."""
    same_NL = (before_NL == after_NL).cumprod(-1).bool()
    return {
        str(depth + 1): round(float((~same_NL[:, depth]).float().mean()), 6)
        for depth in range(before_NL.shape[1])
    }


def _used(codes_N: Tensor, size: int) -> dict[str, float]:
    share_K = torch.bincount(codes_N, minlength=size).double() / len(codes_N)
    perplexity = float((-(share_K * share_K.clamp(min=1e-12).log()).sum()).exp())
    return {"used": int((share_K > 0).sum()), "of": size, "perplexity": round(perplexity, 2)}


def _pairs(prefix_ND: Tensor, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Up to PAIRS pairs of rows that are alike, drawn evenly over rows."""
    if not prefix_ND.shape[1]:
        pairs = generator.integers(0, len(prefix_ND), (PAIRS, 2))
        return pairs[pairs[:, 0] != pairs[:, 1]]
    groups = np.unique(prefix_ND.numpy(), axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], groups)
    counts = Counter(groups.tolist())
    sizes = np.array([counts[group] for group in groups.tolist()])
    able = np.flatnonzero(sizes > 1)
    if not len(able):
        return np.empty((0, 2), np.int64)
    one = generator.choice(able, min(PAIRS, len(able)), replace=False)
    other = order[starts[one] + generator.integers(0, sizes[one])]
    return np.stack([one, other], -1)[one != other]
