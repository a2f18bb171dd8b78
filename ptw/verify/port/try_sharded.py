"""Can this machine spread a model over two processes in the sandbox at all? Runs apart, without a port."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from ptw.ports.parallel import mesh_of, shard, whole
from ptw.verify.port.trace_sharded import TRIED, join

PATIENCE = timedelta(seconds=10)


def main(folders: dict[str, str]) -> None:
    """Leaves a file where a sharded layer learnt what one process's would."""
    join(PATIENCE)
    layer: Any = nn.Sequential(nn.Linear(4, 4, bias=False, dtype=torch.float64))
    nn.init.eye_(layer[0].weight)
    shard(layer, mesh_of(distributed.get_world_size(), "cpu"))
    rank = distributed.get_rank()
    layer(torch.full((1, 4), rank + 1.0, dtype=torch.float64)).sum().backward()
    gradient = whole(layer[0].weight.grad)
    if rank == 0 and bool((gradient == 1.5).all()):
        (Path(folders["output"]) / TRIED).touch()
    distributed.barrier()
    distributed.destroy_process_group()
