"""How is a model of one device spread over processes? Block by block, from outside.

Processes form a mesh of up to three dimensions: copies of the model (replicas), which share nothing but
gradients; shards of a copy, each with its part of every parameter (FSDP2); parts of a shard's computation.
Where experts are dealt, their parameters lie on a mesh of their own, of the same processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

REPLICA, SHARD, TENSOR, EXPERT = "replica", "shard", "tensor", "expert"


def mesh_of(
    world: int, device_type: str, replicas: int = 1, neighbours: int = 1, called: str = TENSOR
) -> DeviceMesh:
    """All processes: neighbours compute one batch together (TENSOR), or share experts (EXPERT).

    A dimension of one is left out, but for the shards': each makes process groups of its own, and where there
    are only shards they are the group that is there already.
    """
    from torch.distributed.device_mesh import init_device_mesh

    sizes = {REPLICA: replicas, SHARD: world // (replicas * neighbours), called: neighbours}
    kept = {name: size for name, size in sizes.items() if size > 1 or name == SHARD}
    return init_device_mesh(device_type, tuple(kept.values()), mesh_dim_names=tuple(kept))


def shard(module: nn.Module, mesh: DeviceMesh, computed_in: torch.dtype | None = None) -> None:
    """Each process holds its part of every parameter, gathered block by block while computing.

    computed_in: what parameters are cast to while computing; gradients are summed in fp32 then. By default
    everything stays in the parameters' own dtype. Of a gradient the mean over replicas and shards is taken.
    """
    from torch.distributed.fsdp import fully_shard

    policy, over = policy_of(computed_in), holders(mesh)
    for _, block in blocks(module):
        fully_shard(block, mesh=over, mp_policy=policy)
    # the head is applied after forward: what is left (embedding, norm, head) stays gathered until backward
    fully_shard(module, mesh=over, mp_policy=policy, reshard_after_forward=False)


def policy_of(computed_in: torch.dtype | None, **values: Any) -> Any:
    """FSDP2's; master weights and sums stay in fp32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if computed_in is None:
        return MixedPrecisionPolicy(**values)
    return MixedPrecisionPolicy(param_dtype=computed_in, reduce_dtype=torch.float32, **values)


def holders(mesh: DeviceMesh) -> DeviceMesh:
    """The dimensions over which parameters are held: shards, and copies where there are several."""
    return mesh[REPLICA, SHARD] if REPLICA in (mesh.mesh_dim_names or ()) else mesh[SHARD]


def reshard(module: nn.Module) -> None:
    """What a forward pass left gathered, which only a backward pass would shard again.

    Until then the module's parameters are not those that an optimizer or a checkpoint is to see.
    """
    of_fsdp: Any = module
    if hasattr(module, "reshard"):
        of_fsdp.reshard()


def materialise(module: nn.Module, device: torch.device | str) -> None:
    """Unset memory for what this process holds of a model that was spread on the meta device."""
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter with two names stays one
    try:
        module.to_empty(device=device)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swap)


def copy_whole(parameter: Tensor, full: Tensor) -> None:
    """Copy a full tensor into a parameter, or into what this process holds of it; nothing is sent."""
    local(parameter).copy_(full[held(parameter)])


def held(parameter: Tensor) -> tuple[slice, ...]:
    """Where in the full tensor that lies which this process holds of it."""
    mesh = getattr(parameter, "device_mesh", None)  # a DTensor's, whose import is slow
    if mesh is None:
        return tuple(slice(0, size) for size in parameter.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    placed: Any = parameter
    shape, start = compute_local_shape_and_global_offset(parameter.shape, mesh, placed.placements)
    return tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))


def local(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter."""
    placed: Any = getattr(parameter, "to_local", None)
    return parameter if placed is None else placed()


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
