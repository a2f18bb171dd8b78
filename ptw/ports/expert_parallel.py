"""How do several processes hold a model's experts between them? Each has some, and their optimizer state.

The experts of a block are parameters that are stacked along their first dimension, in one module, which
computes with `ptw.nn.experts`. Each process keeps an equal part of the stack; tokens go to where their
experts are, and come back (Lepikhin et al., 2020). A port knows nothing of it: `Groups` sends what is to be
sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.nn._exchange import shared_by
from ptw.ports.parallel import EXPERT, holders, policy_of
from ptw.ports.tensor_parallel import How, read_locally

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def owners_of(module: nn.Module, parts: int, who: str) -> dict[str, nn.Module]:
    """The modules that hold experts, by name; the model may be on the meta device.

    who: what a message calls the model. PtwError names what can't be dealt to `parts`, and what would do.
    """
    found = {place: child for place, child in module.named_modules() if has_stacks(child)}
    where = f"{who}: experts = {parts}"
    if not found:
        raise PtwError(f"{where}: it has no experts that could be dealt; set experts = 1")
    for place, owner in found.items():
        _demand_dealable(f"{where}: {place}", dict(owner.named_parameters()), parts)
    return found


def deal(owners: Mapping[str, nn.Module], mesh: DeviceMesh, computed_in: torch.dtype | None) -> None:
    """Each process of a mesh with a dimension EXPERT keeps its experts, in shards over the other dimensions.

    computed_in: as of `parallel.shard`, which is to follow for all else.
    """
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    # what comes in was cast by the block: the weights of a token's experts may be wider
    policy = policy_of(computed_in, cast_forward_inputs=False)
    sharers = mesh[EXPERT].size()
    for place, owner in owners.items():
        for name, parameter in list(owner.named_parameters()):
            # every process has, or will read, the same: nothing is sent
            placed = distribute_tensor(parameter.detach(), mesh[EXPERT], [Shard(0)], src_data_rank=None)
            setattr(owner, name, nn.Parameter(placed, parameter.requires_grad))
        # an expert's gradient is summed over the tokens of all who share it, where FSDP takes the mean
        read_locally(owner, tuple(How(name, mean_of=sharers) for name in owner._parameters))
        owner.forward = partial(_together, owner.forward, mesh.get_group(EXPERT), place)
        fully_shard(owner, mesh=holders(mesh), mp_policy=policy)


def has_stacks(module: nn.Module) -> bool:
    """Whether it has matrices on one another; a convolution's kernel is none."""
    is_own = not type(module).__module__.startswith("torch.")
    return is_own and any(own is not None and own.ndim == 3 for own in module._parameters.values())


def _demand_dealable(where: str, parameters: Mapping[str, Tensor], parts: int) -> None:
    count = next(len(parameter) for parameter in parameters.values() if parameter.ndim == 3)
    for name, parameter in parameters.items():
        if "." in name or len(parameter) != count:
            raise PtwError(
                f"{where}.{name} {tuple(parameter.shape)} is no stack of the {count} experts beside it, and "
                "each process has some of them only; set experts = 1"
            )
    if count % parts:
        raise PtwError(
            f"{where} has {count} experts, which cannot be dealt to {parts}; set experts = 1, or to a number "
            f"that divides {count}"
        )


def _together(forward: Callable[..., Any], group: Any, place: str, *given: Any, **named: Any) -> Any:
    """The module's forward pass, on the tokens of all who share its experts."""
    with shared_by(group) as sharing:
        out = forward(*given, **named)
    if not sharing.dealt:
        raise PtwError(
            f"{place}: it computes its experts without ptw.nn.experts, so that tokens cannot be sent to "
            "those of other workers; set experts = 1"
        )
    return out
