"""How is a model of one device spread over processes? FSDP2, block by block, from outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def shard(module: nn.Module, world: int, device_type: str, computed_in: torch.dtype | None = None) -> None:
    """Each of `world` processes holds its part of every parameter, gathered block by block while computing.

    computed_in: what parameters are cast to while computing; gradients are summed in fp32 then. By default
    everything stays in the parameters' own dtype.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device_type, (world,))
    # master weights and sums stay in fp32
    cast = MixedPrecisionPolicy(param_dtype=computed_in, reduce_dtype=torch.float32)
    policy = MixedPrecisionPolicy() if computed_in is None else cast
    for _, block in blocks(module):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # the head is applied after forward: what is left (embedding, norm, head) stays gathered until backward
    fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def blocks(module: nn.Module, path: str = "") -> list[tuple[str, nn.Module]]:
    """The repeated blocks by name (model.layers.0): each outermost ModuleList's members with parameters."""
    found: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        place = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList):
            members = ((f"{place}.{at}", block) for at, block in enumerate(child))
            found += [pair for pair in members if any(True for _ in pair[1].parameters())]
        else:
            found += blocks(child, place)
    return found


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one; every process must ask."""
    gather: Any = getattr(tensor, "full_tensor", None)  # a DTensor, whose import is slow
    return tensor if gather is None else gather()
