"""How does one go through a large sparse matrix without a second one?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array

AT_ONCE = 2**21  # entries


def blocks(matrix_NM: csr_array) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Of some rows at a time: which they are, where their entries lie, and the row of each, from 0."""
    ends_N = matrix_NM.indptr
    start = 0
    while start < matrix_NM.shape[0]:
        stop = max(int(np.searchsorted(ends_N, ends_N[start] + AT_ONCE, "right")) - 1, start + 1)
        rows = np.repeat(np.arange(stop - start), np.diff(ends_N[start : stop + 1]))
        yield slice(start, stop), slice(int(ends_N[start]), int(ends_N[stop])), rows
        start = stop
