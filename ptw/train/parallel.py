"""How do the workers of a run hold its model? Sharded, and brought together again for what is written."""

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ptw.errors import PtwError
from ptw.ports import expert_parallel, parallel
from ptw.ports.load import Spread
from ptw.ports.parallel import whole
from ptw.ports.port import Port
from ptw.ports.tensor_parallel import distribute, regions_of
from ptw.train.group import Group
from ptw.workspace.manifest import ClusterEntry

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def spreading(cluster: ClusterEntry, group: Group, precision: str, who: str) -> Spread | None:
    """How this run's workers hold a model between them; None: one worker has all of it.

    bf16 computes on parameters cast to it. who: what a refusal calls the model.
    """
    if group.world == 1:
        return None
    computed_in = None if precision == "fp32" else torch.bfloat16
    if group.tensor > 1 or cluster.experts > 1:  # it warns of each gather over two dimensions, as they lie
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    mesh = parallel.mesh_of(group.world, group.device.type, cluster.replicas, group.tensor)

    def spread(module: nn.Module, port: Port | None, config: Any) -> None:
        demand_port(cluster, port, who)
        name = who if port is None else f"{who} (port {port.model_type})"
        if group.tensor > 1:
            distribute(module, regions_of(module, config, group.tensor, name), mesh[parallel.TENSOR])
        if cluster.experts > 1:
            owners = expert_parallel.owners_of(module, cluster.experts, name)
            expert_parallel.deal(owners, _expert_mesh(cluster, group), computed_in)
        parallel.shard(module, mesh, computed_in)

    return spread


def demand_port(cluster: ClusterEntry, port: Port | None, who: str) -> None:
    """PtwError where several workers would compute a model of Hugging Face's class between them."""
    for key, parts in (("tensor", cluster.tensor), ("experts", cluster.experts)):
        if parts > 1 and port is None:
            raise PtwError(f"{who}: {key} = {parts} needs a port, and it has none; set {key} = 1")


def _expert_mesh(cluster: ClusterEntry, group: Group) -> "DeviceMesh":
    assert group.tensor == 1, "experts are dealt to workers with a batch of their own"
    return parallel.mesh_of(
        group.world, group.device.type, cluster.replicas, cluster.experts, parallel.EXPERT
    )


def recompute(module: nn.Module) -> None:
    """Keep of each block its input only, and compute it again in the backward pass: the same bits."""
    for _, block in parallel.blocks(module):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def full_state(module: nn.Module, first: bool) -> dict[str, Any]:
    """Full tensors by name, on the CPU of the first worker; the others join in and keep nothing."""
    state = {}
    for name, tensor in module.state_dict().items():
        full = whole(tensor.detach())
        if first:
            state[name] = full.cpu()
    return state
