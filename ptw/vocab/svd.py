"""In which directions does a sparse matrix say most?"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

BEYOND = 10  # directions looked at beside those that are wanted
TURNS = 3


def leading(matrix_NM: csr_array, width: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, D) left directions, (D,) strengths and (M, D) right directions.

    Halko, Martinsson and Tropp, 2011: a random sketch, turned towards the strong directions a few times.
    """
    turned_MN = matrix_NM.T  # the same memory
    generator = torch.Generator().manual_seed(seed)
    most = min(width + BEYOND, *matrix_NM.shape)
    basis_MS = torch.randn(matrix_NM.shape[1], most, generator=generator)
    for _ in range(TURNS):
        basis_MS = _basis(turned_MN, _basis(matrix_NM, basis_MS))
    basis_NS = _basis(matrix_NM, basis_MS)
    right_MD, strength_D, small_SD = torch.linalg.svd(times(turned_MN, basis_NS), full_matrices=False)
    kept = min(width, most)
    return basis_NS @ small_SD.T[:, :kept], strength_D[:kept], right_MD[:, :kept]


def times(matrix_NM: csr_array, dense_MD: Tensor) -> Tensor:
    """(N, D)"""
    return torch.from_numpy(np.asarray(matrix_NM @ dense_MD.numpy()))


def _basis(matrix_NM: csr_array, dense_MS: Tensor) -> Tensor:
    return torch.linalg.qr(times(matrix_NM, dense_MS))[0]
