"""How close are a router's decisions? Watches every top-k that the reference takes.

Where the k-th and the next score lie close, rounding decides which experts a token meets: no port can be
held to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CHOOSES: frozenset[Any] = frozenset({torch.topk, torch.Tensor.topk})


class Watch(TorchFunctionMode):
    """The gaps of every decision: between the k-th value and the next, over the spread of the values."""

    def __init__(self) -> None:
        super().__init__()
        self.place = 0  # whoever runs blocks says which it is
        self.gaps: list[tuple[int, Tensor]] = []  # (place, one gap a row of the values)

    @property
    def used(self) -> bool:
        return bool(self.gaps)

    @property
    def closest(self) -> float:
        return min((float(gap.min()) for _, gap in self.gaps if gap.numel()), default=math.inf)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in CHOOSES:
            values, count = args[0], args[1] if len(args) > 1 else kwargs["k"]
            last = kwargs.get("dim", args[2] if len(args) > 2 else -1) in (-1, values.dim() - 1)
            if last and 0 < count < values.shape[-1]:
                self.gaps.append((self.place, gaps(values, count)))
        return func(*args, **kwargs)


def gaps(values: Tensor, count: int) -> Tensor:
    """(rows,): how far the next value is from the `count`-th, over the spread of those that compete."""
    ordered = values.detach().double().flatten(0, -2).sort(dim=-1, descending=True).values
    # what is masked out does not compete
    finite = ordered.masked_fill(ordered < -1e30, math.nan)
    spread = finite[:, 0] - finite.nan_to_num(nan=math.inf).min(dim=-1).values
    gap = (finite[:, count - 1] - finite[:, count]).nan_to_num(nan=math.inf)
    return torch.where(gap.isinf(), gap, gap / spread.clamp_min(1e-300))
