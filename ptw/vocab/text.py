"""Which vectors do the texts of items have?"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ptw.vocab.sparse import blocks
from ptw.vocab.svd import leading, times
from ptw.vocab.words import NOW, words_of

Array = np.ndarray[Any, np.dtype[np.int64]]
BUCKETS = 2**16  # that words and pairs of words fall into
WIDTH = 128
TEXTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Lsa:
    """Latent semantic analysis (Deerwester et al., 1990) of words and pairs of words, the rare ones first.

    Words fall into buckets by a hash, so that there is no list of words to keep, and new texts have vectors.
    """

    rarity_B: Tensor
    directions_BD: Tensor
    reading: int = NOW

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, D); of length 1, 0 where a text has no word that was there before."""
        found_ND = torch.empty(len(texts), self.directions_BD.shape[1])
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            part = slice(start, start + TEXTS_AT_ONCE)
            counts_NB = _counts(texts[part], self.reading)
            _weigh(counts_NB, self.rarity_B)
            found_ND[part] = torch.nn.functional.normalize(times(counts_NB, self.directions_BD))
        return found_ND


def learn_lsa(texts: Sequence[str], seed: int) -> Lsa:
    """The directions in which these texts differ most; they take 8 bytes for each word and pair of a text."""
    matrix_NB = _counts(texts, NOW)
    seen_B = torch.zeros(BUCKETS, dtype=torch.int64)
    for _, entries, _ in blocks(matrix_NB):
        seen_B += torch.from_numpy(np.bincount(matrix_NB.indices[entries], minlength=BUCKETS))
    rarity_B = torch.where(seen_B > 0, ((1 + len(texts)) / (1 + seen_B)).log() + 1, 0.0)
    _weigh(matrix_NB, rarity_B)
    used = (seen_B > 0).nonzero()[:, 0]
    right_UD = leading(_without_empty_buckets(matrix_NB, seen_B), WIDTH, seed)[2]
    directions_BD = torch.zeros(BUCKETS, right_UD.shape[1])
    directions_BD[used] = right_UD
    return Lsa(rarity_B, directions_BD)


def _counts(texts: Sequence[str], reading: int) -> csr_array:
    """(N, B) how often a text has words or pairs of words in a bucket, in numbers of four bytes."""
    buckets, counts = array("i"), array("f")
    ends_N = np.zeros(len(texts) + 1, np.int64)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        numbers, found = np.unique(np.fromiter(_numbers(part, reading), np.int64), return_counts=True)
        rows, of_them = np.divmod(numbers, BUCKETS)
        buckets.frombytes(of_them.astype(np.int32).tobytes())
        counts.frombytes(found.astype(np.float32).tobytes())
        ends_N[start + 1 : start + len(part) + 1] = np.bincount(rows, minlength=len(part))
    ends_N = ends_N.cumsum()
    if ends_N[-1] <= np.iinfo(np.int32).max:  # or scipy makes the buckets as wide
        ends_N = ends_N.astype(np.int32)
    held = (np.frombuffer(counts, np.float32), np.frombuffer(buckets, np.int32), ends_N)
    return csr_array(held, shape=(len(texts), BUCKETS))


def _numbers(texts: Sequence[str], reading: int) -> Iterator[int]:
    """Of each word and pair of words of a text: row * BUCKETS + bucket."""
    for row, text in enumerate(texts):
        words = words_of(text, reading)
        pairs = (f"{one} {two}" for one, two in pairwise(words))
        for word in (*words, *pairs):
            yield row * BUCKETS + zlib.crc32(word.encode()) % BUCKETS


def _weigh(counts_NB: csr_array, rarity_B: Tensor) -> None:
    """In their place: (1 + log count) * rarity, each row of length 1."""
    rarity = rarity_B.numpy()
    for _, entries, rows in blocks(counts_NB):
        counts = counts_NB.data[entries].astype(np.float64)
        values = (1 + np.log(counts)) * rarity[counts_NB.indices[entries]]
        squares_N = np.bincount(rows, values**2)
        counts_NB.data[entries] = values / np.sqrt(np.maximum(squares_N, 1e-12))[rows]


def _without_empty_buckets(matrix_NB: csr_array, seen_B: Tensor) -> csr_array:
    """(N, U), with the same values in memory."""
    used_B = (seen_B > 0).numpy()
    place_B = (used_B.cumsum() - 1).astype(np.int32)
    held = (matrix_NB.data, place_B[matrix_NB.indices], matrix_NB.indptr)
    return csr_array(held, shape=(matrix_NB.shape[0], int(used_B.sum())))
