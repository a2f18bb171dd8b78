"""Which part of a model will each worker hold, and compute with? Told of its shapes, before it is spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ptw.ports.expert_parallel import owners_of
from ptw.ports.load import Loaded
from ptw.ports.outline import by_block, cut
from ptw.ports.quantise import PackedBytes
from ptw.ports.tensor_parallel import regions_of
from ptw.train.parallel import demand_port
from ptw.workspace.manifest import ClusterEntry

AT_ONCE = 2  # blocks whose weights are whole: while one computes, the next one comes
Packed = Mapping[str, PackedBytes]  # matrices in 4 bits, by the name of the parameter
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
        if self.alone or not parameter.ndim:
            return parameter.numel()
        sharers = self.cluster.experts if name in self.dealt else 1
        return self._rows(len(parameter) // sharers, sharers) * (parameter.numel() // len(parameter))

    def packed(self, matrices: Packed) -> dict[str, int]:
        """Bytes that a worker keeps of each: its part of the values, and all scales."""
        return {name: self._rows(one.values) + one.scales for name, one in matrices.items()}

    def _rows(self, rows: int, sharers: int = 1) -> int:
        """Of so many those that the first worker keeps."""
        cluster = self.cluster
        return -(-rows // (cluster.workers // (cluster.replicas * cluster.tensor * sharers)))

    def whole(self, module: nn.Module, packed: Packed) -> int:
        """Bytes that are whole for a while: gathered block by block, unpacked matrix by matrix."""
        named = dict(module.named_parameters())
        unpacked = max((named[name].numel() * named[name].element_size() for name in packed), default=0)
        return unpacked + self._gathered(module, packed)

    def _gathered(self, module: nn.Module, packed: Packed) -> int:
        """Bytes as FSDP2 computes: of the dtype that parameters have here, or packed.

        What is in no block stays so until the backward pass ends, as do its gradients; of the blocks there
        are the weights of two, and the gradients of one, with the copy that is summed over the workers.
        """
        if self.alone:
            return 0
        names = {id(one): name for name, one in module.named_parameters()}

        def bytes_of(one: nn.Parameter, wide: bool) -> int:
            if (name := names[id(one)]) in packed:
                return packed[name].values
            sharers = self.cluster.experts if name in self.dealt else 1
            return one.numel() // sharers * (SUM_BYTES if wide else one.element_size())

        def size(group: list[nn.Parameter], learnt: bool, wide: bool = False) -> int:
            return sum(bytes_of(one, wide) for one in group if one.requires_grad or not learnt)

        rest, *blocks = by_block(module)
        weights = sorted((size(block, learnt=False) for block in blocks), reverse=True)
        gradients = [size(block, True) + size(block, True, wide=True) for block in blocks]
        return size(rest, learnt=False) + sum(weights[:AT_ONCE]) + max(gradients, default=0)
