"""How are hidden states normalised, with the upcasts that the references have?"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root mean square norm: in fp32, rounded to the input's dtype, then weighted, as Llama has it."""

    neutral = 1.0  # the weight that changes nothing

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return self.weight * _normalised(hidden, self.eps).to(hidden.dtype)


class CentredRMSNorm(nn.Module):
    """Root mean square norm whose weight is a distance from 1, in fp32 and rounded last, as Gemma has it."""

    neutral = 0.0

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return (_normalised(hidden, self.eps) * (1.0 + self.weight.float())).to(hidden.dtype)


def _normalised(hidden: Tensor, eps: float) -> Tensor:
    """In fp32, with a mean square of 1."""
    wide = hidden.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
