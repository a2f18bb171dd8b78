"""Which vectors do the texts of items have?"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ptw.vocab.svd import leading, times

Array = np.ndarray[Any, np.dtype[np.int64]]
WORD = re.compile(r"\w+")
BUCKETS = 2**16  # that words and pairs of words fall into
WIDTH = 128
TEXTS_AT_ONCE = 50_000


@dataclass(frozen=True)
class Lsa:
    """Latent semantic analysis (Deerwester et al., 1990) of words and pairs of words, the rare ones first.

    Words fall into buckets by a hash, so that there is no list of words to keep, and new texts have vectors.
    """

    rarity_B: Tensor
    directions_BD: Tensor

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, D); of length 1, 0 where a text has no word that was there before."""
        found = []
        for at in range(0, len(texts), TEXTS_AT_ONCE):
            part = texts[at : at + TEXTS_AT_ONCE]
            found.append(times(_weighed(part, self.rarity_B), self.directions_BD))
        return torch.nn.functional.normalize(torch.cat(found))


def learn_lsa(texts: Sequence[str], seed: int) -> Lsa:
    """The directions in which these texts differ most."""
    seen_B = torch.from_numpy(np.bincount(_counts(texts)[1], minlength=BUCKETS))
    rarity_B = torch.where(seen_B > 0, ((1 + len(texts)) / (1 + seen_B)).log() + 1, 0.0)
    used = (seen_B > 0).nonzero()[:, 0]
    right_UD = leading(_weighed(texts, rarity_B)[:, used.numpy()], WIDTH, seed)[2]
    directions_BD = torch.zeros(BUCKETS, right_UD.shape[1])
    directions_BD[used] = right_UD
    return Lsa(rarity_B, directions_BD)


def _weighed(texts: Sequence[str], rarity_B: Tensor) -> csr_array:
    """(N, B): (1 + log count) * rarity, each row of length 1."""
    rows, buckets, counts = _counts(texts)
    values = (1 + np.log(counts)) * rarity_B.numpy()[buckets]
    squares_N = np.bincount(rows, values**2, minlength=len(texts))
    values = values / np.sqrt(np.maximum(squares_N, 1e-12))[rows]
    return csr_array((values.astype(np.float32), (rows, buckets)), shape=(len(texts), BUCKETS))


def _counts(texts: Sequence[str]) -> tuple[Array, Array, Array]:
    """Of every text and bucket that it has words or pairs of words in: both, and how many."""
    found = []
    for row, text in enumerate(texts):
        words = WORD.findall(text.casefold())
        pairs = (f"{one} {two}" for one, two in pairwise(words))
        found += [row * BUCKETS + zlib.crc32(word.encode()) % BUCKETS for word in (*words, *pairs)]
    numbers, counts = np.unique(np.array(found, np.int64), return_counts=True)
    return (*np.divmod(numbers, BUCKETS), counts)
