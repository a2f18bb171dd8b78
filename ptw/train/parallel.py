"""How is a model of one device spread over the workers? FSDP2, block by block, from outside."""

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ptw.train.group import Group


def shard(module: nn.Module, group: Group, precision: str) -> None:
    """From two workers on each holds its part of every parameter, gathered block by block while computing."""
    if group.world == 1:
        return
    mesh = init_device_mesh(group.device.type, (group.world,))
    # master weights and sums stay in fp32
    halved = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = MixedPrecisionPolicy() if precision == "fp32" else halved
    for block in blocks(module):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # the head is applied after forward: what is left (embedding, norm, head) stays gathered until backward
    fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks by their names: the members of each outermost ModuleList (model.layers.*)."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            found += [block for block in child if any(True for _ in block.parameters())]
        else:
            found += blocks(child)
    return found


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor of a sharded one; every worker must ask."""
    if isinstance(tensor, DTensor):
        full: torch.Tensor = tensor.full_tensor()
        return full
    return tensor


def full_state(module: nn.Module, first: bool) -> dict[str, Any]:
    """Full tensors by name, on the CPU of the first worker; the others join in and keep nothing."""
    state = {}
    for name, tensor in module.state_dict().items():
        full = whole(tensor.detach())
        if first:
            state[name] = full.cpu()
    return state
