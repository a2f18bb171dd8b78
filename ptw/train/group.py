"""Which worker is this, among how many, on which device, and how do they agree?"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

PATIENCE = timedelta(minutes=30)  # the others wait this long while one reads, counts or writes


@dataclass(frozen=True)
class Group:
    """The workers of a run. With one worker nothing is sent.

    tensor: so many neighbours compute one batch together, each with some of the heads; to all that is about
    rows, samples and losses they are one. channel: what they agree over; None: the process group of training.
    """

    rank: int
    world: int
    device: torch.device
    tensor: int = 1
    channel: distributed.ProcessGroup | None = None

    @property
    def data_rank(self) -> int:
        """Whose batch this worker computes, of `data_world`."""
        return self.rank // self.tensor

    @property
    def data_world(self) -> int:
        return self.world // self.tensor

    @property
    def answers(self) -> bool:
        """Whether this worker speaks for those that compute its batch with it."""
        return self.rank % self.tensor == 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value, summed over the workers, in fp64."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total, group=self.channel)
        summed: list[float] = total.tolist()
        return summed

    def added(self, tensor: Tensor) -> Tensor:
        """The tensor, summed over the workers: where each fills other places of zeros, all of theirs."""
        if self.world > 1:
            distributed.all_reduce(tensor, group=self.channel)
        return tensor

    def once(self, value: float) -> float:
        """What this worker adds to a sum over batches: nothing where another one answers for its batch."""
        return value if self.answers else 0.0

    def by_batch(self, value: Any) -> list[Any]:
        """The value of each batch, by data rank."""
        return self.gathered(value)[:: self.tensor]

    def gathered(self, value: Any) -> list[Any]:
        """Each worker's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value, group=self.channel)
        return values

    def shared(self, value: Any) -> Any:
        """The first worker's value."""
        if self.world == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.channel)
        return values[0]

    def largest(self, *values: float) -> list[float]:
        """Of each value, the largest of any worker, in fp64."""
        if self.world == 1:
            return list(values)
        most = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(most, distributed.ReduceOp.MAX, group=self.channel)
        found: list[float] = most.tolist()
        return found

    def wait(self) -> None:
        if self.world > 1:
            distributed.barrier(group=self.channel)


@contextmanager
def joined() -> Iterator[Group]:
    """The process group that is there (Ray Train), or that torchrun's variables ask for, or none: alone."""
    ours = not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    device = _device()
    if ours:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        if distributed.is_initialized():
            yield Group(distributed.get_rank(), distributed.get_world_size(), device)
        else:
            yield Group(0, 1, device)
    finally:
        if ours:
            distributed.destroy_process_group()


@contextmanager
def apart(group: Group) -> Iterator[Group]:
    """The same workers, over a channel beside training's, for a thread that works while it goes on."""
    cpu = torch.device("cpu")
    if group.world == 1:
        yield replace(group, device=cpu)
        return
    channel = distributed.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield replace(group, device=cpu, channel=channel)
    finally:
        distributed.destroy_process_group(channel)


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Ray shows a worker only its own GPUs; torchrun shows them all
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
