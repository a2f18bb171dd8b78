"""How long does work take, and how much does it keep in memory? With clocks that no port has had in hand.

Imported before a port's file is loaded. On a CPU the processor's time counts, of all threads: what else runs
on the machine meanwhile is nobody's fault.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from time import perf_counter, process_time

import torch
from torch import Tensor

ROUNDS = 5
NAMES = "names.json"  # of a case's checkpoint, which has no file of weights
VECTOR_SPREAD = 0.1


def seconds(work: Callable[[], object], device: str, rounds: int = ROUNDS) -> Tensor:
    """(rounds,) seconds, after a round that is not counted."""
    clock = process_time if device == "cpu" else perf_counter
    taken = []
    for _ in range(rounds + 1):
        _finish(device)
        start = clock()
        work()
        _finish(device)
        taken.append(clock() - start)
    return torch.tensor(taken[1:], dtype=torch.float64)


def kept_bytes(step: Callable[[], object], device: str) -> Tensor:
    """What a step holds: on CUDA the most at any time, on a CPU what forward keeps for backward."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.tensor(float(torch.cuda.max_memory_allocated()), dtype=torch.float64)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return torch.tensor(float(sum(kept.values())), dtype=torch.float64)


def weight(key: str, shape: Sequence[int]) -> Tensor:
    """A checkpoint's tensor by its name and shape alone: the same in each process, from no file."""
    drawn = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    # by what it is summed over: each matrix gives about what it is given
    return drawn * shape[-1] ** -0.5 if len(shape) > 1 else 1.0 + drawn * VECTOR_SPREAD


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
