"""Which codes does an item get where another has the nearest ones already?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.vocab.codec import Codec

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Placed:
    """(N, L) codes, no two alike; which items moved, and how far all are from what their codes stand for."""

    codes_NL: Tensor
    moved_N: Tensor
    largest: int  # how many items have the same nearest codes, at most
    before: float  # squared distance over squared length, of the nearest codes
    after: float  # of the codes that they got


def placed(codec: Codec, encoded_ND: Tensor, taken_ML: Tensor | None = None) -> Placed:
    """An item keeps its nearest codes where it is nearest of all that share them; the others move to the
    nearest last code that is free. Where a prefix has no free one left, to the next nearest prefix.

    taken_ML: codes that others have for good. PtwError where there are more items than codes.
    """
    levels, size = codec.codebooks_LKD.shape[:2]
    taken_ML = torch.empty(0, levels, dtype=torch.int64) if taken_ML is None else taken_ML
    demand_room(len(encoded_ND) + len(taken_ML), levels, size)
    codes_NL, left_ND = codec.codes(encoded_ND)
    off_N = left_ND.square().sum(-1)
    order, is_first, counts = _in_order(codes_NL, off_N, size, _numbers(taken_ML, size))
    moved_N = torch.ones(len(codes_NL), dtype=torch.bool)
    moved_N[order[is_first]] = False
    found_NL = codes_NL.clone()
    places = _Places(codec, torch.cat([codes_NL[~moved_N], taken_ML]))
    for item in order[~is_first].tolist():
        found_NL[item] = places.nearest(encoded_ND[item].numpy())
    whole = float(encoded_ND.square().sum().clamp(min=1e-12))
    after_N = codec.left_over(encoded_ND, found_NL).square().sum(-1)
    largest = int(counts.max()) if len(counts) else 0
    return Placed(found_NL, moved_N, largest, float(off_N.sum()) / whole, float(after_N.sum()) / whole)


def demand_room(items: int, levels: int, size: int) -> None:
    """PtwError where there are more items than codes."""
    if items > size**levels:
        raise PtwError(
            f"{items:,} items are more than the {size**levels:,} codes of levels = {levels} with "
            f"codebook_size = {size}; raise one of them"
        )


def _in_order(codes_NL: Tensor, off_N: Tensor, size: int, taken_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Items by their codes, the nearest first; which of them keeps its codes; how many share each."""
    numbers_N = _numbers(codes_NL, size)
    by_distance = off_N.argsort(stable=True)
    order = by_distance[numbers_N[by_distance].argsort(stable=True)]
    sorted_N = numbers_N[order]
    is_first = torch.ones(len(order), dtype=torch.bool)
    is_first[1:] = sorted_N[1:] != sorted_N[:-1]
    counts = torch.unique_consecutive(sorted_N, return_counts=True)[1]
    return order, is_first & ~torch.isin(sorted_N, taken_M), counts


def _numbers(codes_NL: Tensor, size: int) -> Tensor:
    """(N,) one number for each choice of codes."""
    powers_L = size ** torch.arange(codes_NL.shape[-1] - 1, -1, -1)
    return (codes_NL * powers_L).sum(-1)


class _Places:
    """Which last codes are free below each prefix. A sequence of codes is one number, as is a prefix."""

    def __init__(self, codec: Codec, taken_ML: Tensor) -> None:
        self._books_LKD = codec.codebooks_LKD.numpy()
        self._squares_LK = np.square(self._books_LKD).sum(-1)
        self._taken = set(_numbers(taken_ML, self._books_LKD.shape[1]).tolist())
        self._full: list[set[int]] = [set() for _ in self._books_LKD]  # by how many codes a prefix has

    def nearest(self, encoded_D: Array) -> Tensor:
        """(L,) the nearest codes that are free, depth first: a nearer prefix before a nearer last code."""
        found = self._below((), 0, encoded_D)
        assert found is not None, "there are as many codes as items"
        return torch.tensor(found)

    def _below(self, prefix: tuple[int, ...], number: int, left_D: Array) -> tuple[int, ...] | None:
        level = len(prefix)
        if number in self._full[level]:
            return None
        book_KD = self._books_LKD[level]
        order = np.argsort(self._squares_LK[level] - 2 * (book_KD @ left_D), kind="stable")
        for code in order.tolist():
            below = number * len(book_KD) + code
            if level + 1 < len(self._books_LKD):
                found = self._below((*prefix, code), below, left_D - book_KD[code])
                if found is not None:
                    return found
            elif below not in self._taken:
                self._taken.add(below)
                return (*prefix, code)
        self._full[level].add(number)
        return None
