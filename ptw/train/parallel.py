"""How do the workers of a run hold its model? Sharded, and brought together again for what is written."""

import logging
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ptw.errors import PtwError
from ptw.ports import parallel
from ptw.ports.load import Spread
from ptw.ports.parallel import whole
from ptw.ports.port import Port
from ptw.ports.tensor_parallel import distribute, regions_of
from ptw.train.group import Group
from ptw.workspace.manifest import ClusterEntry


def spreading(cluster: ClusterEntry, group: Group, precision: str, who: str) -> Spread | None:
    """How this run's workers hold a model between them; None: one worker has all of it.

    bf16 computes on parameters cast to it. who: what a refusal calls the model.
    """
    if group.world == 1:
        return None
    computed_in = None if precision == "fp32" else torch.bfloat16
    if group.tensor > 1:  # it warns of each gather over two dimensions, which is how FSDP2 and heads lie
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    mesh = parallel.mesh_of(group.world, group.device.type, cluster.replicas, group.tensor)

    def spread(module: nn.Module, port: Port | None, config: Any) -> None:
        if group.tensor > 1:
            if port is None:
                raise PtwError(
                    f"{who}: tensor = {group.tensor} needs a port, and it has none; set tensor = 1"
                )
            regions = regions_of(module, config, group.tensor, f"{who} (port {port.model_type})")
            distribute(module, regions, mesh[parallel.TENSOR])
        parallel.shard(module, mesh, computed_in)

    return spread


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
