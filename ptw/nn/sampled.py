"""How does a softmax over a large catalogue learn from a few classes, drawn anew for each step?

As of Blanc and Rendle, 2018: the target's logit stands as it is, and from that of each drawn class the
logarithm of how often it is drawn on average is taken (logQ). So what the drawn ones add to the softmax's sum
is on average what all classes but the target add. A drawn class that is the target itself is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**24  # logits held at a time: 64 MiB in fp32


@dataclass(frozen=True, eq=False)
class Drawn:
    """Classes that stand for all others, and of each the logarithm of how often a draw has it on average."""

    ids_S: Tensor
    log_expected_S: Tensor

    def to(self, device: torch.device) -> Drawn:
        return Drawn(self.ids_S.to(device), self.log_expected_S.to(device))


@dataclass(frozen=True, eq=False)
class Sampler:
    """So many draws of classes by their weights (V,), the same for a step whoever asks.

    The classes lie on a line, each as long as how often it is expected, at most 1, and each piece of length 1
    gives one. So one that is expected once is always there, hardly any comes twice, and as many draws as
    there are classes are all of them.
    """

    weights_V: Tensor
    draws: int
    seed: int = 0

    def of_step(self, step: int) -> Drawn:
        """Those of this step, counted from 0; on the CPU."""
        random = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        count = min(self.draws, len(self.weights_V))
        points_S = torch.arange(count) + torch.rand(count, generator=random, dtype=torch.float64)
        order_V, ends_V = self._line
        places_S = torch.searchsorted(ends_V, points_S, right=True).clamp(max=len(order_V) - 1)
        ids_S = order_V[places_S]
        return Drawn(ids_S, self.expected[ids_S].log().float())

    @cached_property
    def expected(self) -> Tensor:
        """(V,) how often a draw has each class on average, in fp64: by its weight, but at most once."""
        weights_V = self.weights_V.double()
        expected_V, left = torch.zeros_like(weights_V), min(self.draws, len(weights_V))
        open_V = torch.ones_like(weights_V, dtype=torch.bool)
        while left:
            share_V = torch.where(open_V, weights_V, 0.0)
            share_V = share_V * (left / share_V.sum())
            certain_V = open_V & (share_V >= 1 - 1e-12)
            if not certain_V.any():
                return torch.where(open_V, share_V, expected_V)
            expected_V[certain_V] = 1.0
            open_V &= ~certain_V
            left -= int(certain_V.sum())
        return expected_V

    @cached_property
    def _line(self) -> tuple[Tensor, Tensor]:
        """The classes in their order on the line, those that are certain first, and where each ends."""
        order_V = (self.expected < 1).int().argsort(stable=True)
        return order_V, self.expected[order_V].cumsum(0)


def sampled_losses(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, drawn: Drawn, cap: float | None = None
) -> Tensor:
    """(M,) losses of targets against the drawn classes, in fp32 at least; only their rows get a gradient."""
    drawn = drawn.to(weight_VD.device)
    # one look-up: each would make a gradient as large as the table
    rows_RD = weight_VD.index_select(0, torch.cat([drawn.ids_S, targets_M]))
    others_SD, own_MD = rows_RD.split([len(drawn.ids_S), len(targets_M)])
    size = max(1, CHUNK_ELEMENTS // len(drawn.ids_S))
    chunks = zip(hidden_MD.split(size), own_MD.split(size), targets_M.split(size), strict=True)
    found = [
        checkpoint(_losses, *chunk, others_SD, drawn.ids_S, drawn.log_expected_S, cap, use_reentrant=False)
        for chunk in chunks
    ]
    return torch.cat(found)


def _losses(
    hidden_MD: Tensor,
    own_MD: Tensor,
    targets_M: Tensor,
    others_SD: Tensor,
    ids_S: Tensor,
    log_expected_S: Tensor,
    cap: float | None,
) -> Tensor:
    own_M1 = _capped((_wide(hidden_MD) * _wide(own_MD)).sum(-1, keepdim=True), cap)
    others_MS = _capped(_wide(functional.linear(hidden_MD, others_SD)), cap) - log_expected_S
    others_MS = others_MS.masked_fill(ids_S == targets_M[:, None], -torch.inf)
    return torch.cat([own_M1, others_MS], -1).logsumexp(-1) - own_M1.squeeze(-1)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else torch.tanh(logits / cap) * cap
