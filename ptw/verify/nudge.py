"""How is one tensor of a checkpoint changed, alike for port and reference, so that its effect can be seen?"""

from __future__ import annotations

import torch
from torch import Tensor

from ptw.verify.drawing.informative import generator

STRENGTH = 0.25


def nudge(key: str, tensor: Tensor) -> Tensor:
    """The tensor in fp64 with noise of its own on every element."""
    noise = torch.randn(tensor.shape, generator=generator(1, key), dtype=torch.float64)
    spread = tensor.double().square().mean().sqrt()
    return tensor.double() + STRENGTH * spread * noise
