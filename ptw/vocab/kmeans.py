"""Which centres are nearest to all vectors together? Lloyd's algorithm, in chunks."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24  # distances held at a time: 64 MiB
SETTLED = 1e-4  # of the squared distances: a step that gains less is the last
EACH = 256  # vectors of a centre that are enough to place it (as faiss has it)


def fit(vectors_ND: Tensor, size: int, generator: torch.Generator, iterations: int = 25) -> Tensor:
    """(size, D) centres, begun by k-means++ on a sample; fewer where there are fewer vectors."""
    sample_MD = _sample(vectors_ND, size * EACH, generator)
    return refine(sample_MD, _spread_out(sample_MD, size, generator), iterations)


def refine(vectors_ND: Tensor, centres_KD: Tensor, iterations: int) -> Tensor:
    """The centres after so many steps more; one that no vector is nearest to goes to the farthest vector."""
    before = torch.inf
    for _ in range(iterations):
        distances_N, codes_N = nearest(vectors_ND, centres_KD)
        total = distances_N.sum().item()
        if total >= before * (1 - SETTLED):
            break
        before = total
        counts_K = torch.bincount(codes_N, minlength=len(centres_KD))
        sums_KD = torch.zeros_like(centres_KD).index_add_(0, codes_N, vectors_ND)
        moved_KD = sums_KD / counts_K.clamp(min=1)[:, None]
        empty = (counts_K == 0).nonzero()[:, 0][: len(vectors_ND)]
        if len(empty):
            moved_KD[empty] = centres_KD[empty]
            far = distances_N.topk(len(empty))
            moved_KD[empty[far.values > 0]] = vectors_ND[far.indices[far.values > 0]]
        centres_KD = moved_KD
    return centres_KD


def nearest(vectors_ND: Tensor, centres_KD: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) squared distances to the nearest centre, and (N,) which one that is."""
    rows = max(1, CHUNK_ELEMENTS // len(centres_KD))
    found = [distances(chunk, centres_KD).min(-1) for chunk in vectors_ND.split(rows)]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def distances(vectors_ND: Tensor, centres_KD: Tensor) -> Tensor:
    """(N, K), squared."""
    squares_NK = vectors_ND.square().sum(-1, keepdim=True) + centres_KD.square().sum(-1)
    return torch.addmm(squares_NK, vectors_ND, centres_KD.T, alpha=-2).clamp_(min=0)


def _sample(vectors_ND: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(vectors_ND) <= most:
        return vectors_ND
    return vectors_ND[torch.randperm(len(vectors_ND), generator=generator)[:most]]


def _spread_out(vectors_ND: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Vectors far from each other (k-means++, Arthur and Vassilvitskii, 2007)."""
    chosen = [int(torch.randint(len(vectors_ND), (1,), generator=generator))]
    squares_N = vectors_ND.square().sum(-1)

    def away(at: int) -> Tensor:
        return (squares_N + squares_N[at] - 2 * (vectors_ND @ vectors_ND[at])).clamp_(min=0)

    away_N = away(chosen[0])
    while len(chosen) < min(size, len(vectors_ND)):
        away_N[chosen[-1]] = 0.0
        if away_N.sum() > 0:
            chosen.append(int(torch.multinomial(away_N, 1, generator=generator)))
            away_N = torch.minimum(away_N, away(chosen[-1]))
        else:  # all that is left is a copy
            left = set(range(len(vectors_ND))) - set(chosen)
            chosen.append(min(left))
    return vectors_ND[chosen].clone()
