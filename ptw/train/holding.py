"""Which part of a model will each worker hold, and compute with? Told of its shapes, before it is spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ptw.ports.expert_parallel import owners_of
from ptw.ports.load import Loaded
from ptw.ports.outline import by_block, cut
from ptw.ports.tensor_parallel import regions_of
from ptw.train.parallel import demand_port
from ptw.workspace.manifest import ClusterEntry

AT_ONCE = 2  # blocks whose weights are whole: while one computes, the next one comes
SUM_BYTES = 4  # of a gradient's element, while workers sum it in fp32


@dataclass(frozen=True)
class Holding:
    """The workers of a cluster; dealt: the parameters, by name, of which each has some experts."""

    cluster: ClusterEntry
    dealt: frozenset[str] = frozenset()

    @classmethod
    def of(cls, cluster: ClusterEntry, loaded: Loaded, who: str) -> Holding:
        """The model is left with what one worker computes; PtwError where it can't be dealt so."""
        module: Any = loaded.module
        demand_port(cluster, loaded.port, who)
        if cluster.tensor > 1:
            cut(module, regions_of(module, module.config, cluster.tensor, who), cluster.tensor)
        if cluster.experts == 1:
            return cls(cluster)
        owners = owners_of(module, cluster.experts, who)
        return cls(
            cluster,
            frozenset(
                f"{place}.{name}" for place, owner in owners.items() for name, _ in owner.named_parameters()
            ),
        )

    @property
    def alone(self) -> bool:
        return self.cluster.workers == 1

    def kept(self, name: str, parameter: nn.Parameter) -> int:
        """Elements that a worker keeps: rows, of which the first worker has most."""
        cluster = self.cluster
        if self.alone or not parameter.ndim:
            return parameter.numel()
        sharers = cluster.experts if name in self.dealt else 1
        shards = cluster.workers // (cluster.replicas * cluster.tensor * sharers)
        rows = len(parameter) // sharers
        return -(-rows // shards) * (parameter.numel() // len(parameter))

    def gathered(self, module: nn.Module) -> int:
        """Bytes that are whole for a while, as FSDP2 computes: of the dtype that parameters have here.

        What is in no block stays so until the backward pass ends, as do its gradients; of the blocks there
        are the weights of two, and the gradients of one, with the copy that is summed over the workers.
        """
        if self.alone:
            return 0
        names = {id(one): name for name, one in module.named_parameters()}

        def size(group: list[nn.Parameter], learnt: bool, wide: bool = False) -> int:
            return sum(
                one.numel()
                // (self.cluster.experts if names[id(one)] in self.dealt else 1)
                * (SUM_BYTES if wide else one.element_size())
                for one in group
                if one.requires_grad or not learnt
            )

        rest, *blocks = by_block(module)
        weights = sorted((size(block, learnt=False) for block in blocks), reverse=True)
        gradients = [size(block, True) + size(block, True, wide=True) for block in blocks]
        return size(rest, learnt=False) + sum(weights[:AT_ONCE]) + max(gradients, default=0)
