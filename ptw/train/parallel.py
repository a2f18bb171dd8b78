"""How do the workers of a run hold its model? Sharded, and brought together again for what is written."""

from typing import Any

import torch
from torch import nn

from ptw.ports import parallel
from ptw.ports.parallel import whole
from ptw.train.group import Group


def shard(module: nn.Module, group: Group, precision: str) -> None:
    """From two workers on each holds its part of every parameter; bf16 computes on parameters cast to it."""
    if group.world > 1:
        computed_in = None if precision == "fp32" else torch.bfloat16
        parallel.shard(module, group.world, group.device.type, computed_in)


def full_state(module: nn.Module, first: bool) -> dict[str, Any]:
    """Full tensors by name, on the CPU of the first worker; the others join in and keep nothing."""
    state = {}
    for name, tensor in module.state_dict().items():
        full = whole(tensor.detach())
        if first:
            state[name] = full.cpu()
    return state
