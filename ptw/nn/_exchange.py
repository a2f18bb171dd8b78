"""How do tokens reach experts that other processes hold? Their rows go there and come back, all to all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

Splits = list[int]  # rows, by process


@dataclass(eq=False)
class Sharing:
    """The processes that hold equal parts of the experts, in their order; `dealt`: how often tokens were."""

    group: distributed.ProcessGroup
    dealt: int = 0


_sharing: list[Sharing] = []


@contextmanager
def shared_by(group: distributed.ProcessGroup) -> Iterator[Sharing]:
    """Within it `Groups` deals tokens to the experts of all these processes, which do the same together."""
    _sharing.append(Sharing(group))
    try:
        yield _sharing[-1]
    finally:
        _sharing.pop()


def sharing() -> Sharing | None:
    """Who shares the experts that are computed here; None: they are all at hand."""
    return _sharing[-1] if _sharing else None


@dataclass(frozen=True, eq=False)
class Trip:
    """The way of rows to the processes that hold their experts.

    expert_S: of each row that came, which of this process's experts it is for.
    """

    expert_S: Tensor
    sent: Splits
    came: Splits
    group: distributed.ProcessGroup

    @classmethod
    def of(cls, count_E: Tensor, group: distributed.ProcessGroup) -> Trip:
        """For so many rows of each expert of all processes; every process of the group calls it."""
        parts = group.size()
        sent_PE = count_E.view(parts, -1)
        came_PE = torch.empty_like(sent_PE)
        distributed.all_to_all_single(came_PE, sent_PE, group=group)
        sent, came = torch.stack((sent_PE.sum(1), came_PE.sum(1))).tolist()
        expert_E = torch.arange(sent_PE.shape[1], device=count_E.device).repeat(parts)
        expert_S = expert_E.repeat_interleave(came_PE.flatten(), output_size=sum(came))
        return cls(expert_S, sent, came, group)

    def there(self, rows_RD: Tensor) -> Tensor:
        """(S, D): the rows that came, of rows in the order of their experts."""
        came: Tensor = _AllToAll.apply(rows_RD, self.sent, self.came, self.group)
        return came

    def back(self, rows_SD: Tensor) -> Tensor:
        """(R, D): to each row that was sent, what was made of it."""
        returned: Tensor = _AllToAll.apply(rows_SD, self.came, self.sent, self.group)
        return returned


class _AllToAll(torch.autograd.Function):
    """Gradients go the way of the rows, backwards."""

    @staticmethod
    def forward(
        ctx: Any, rows_RD: Tensor, sent: Splits, came: Splits, group: distributed.ProcessGroup
    ) -> Tensor:
        ctx.way = (came, sent, group)
        return _sent(rows_RD, sent, came, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        return _sent(upstream[0], *ctx.way), None, None, None


def _sent(rows_RD: Tensor, sent: Splits, came: Splits, group: distributed.ProcessGroup) -> Tensor:
    out_SD = rows_RD.new_empty(sum(came), rows_RD.shape[1])
    distributed.all_to_all_single(out_SD, rows_RD.contiguous(), came, sent, group=group)
    return out_SD
