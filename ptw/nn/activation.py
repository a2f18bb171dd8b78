"""Which function does a configuration mean by `hidden_act`? HF's names, for all that have no weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional


def _tanh_gelu(hidden: Tensor, slope: float) -> Tensor:
    """The tanh approximation of GELU, its slope as precise as the configuration's name says."""
    return 0.5 * hidden * (1.0 + torch.tanh(hidden * slope * (1.0 + 0.044715 * hidden * hidden)))


def _laplace(hidden: Tensor, middle: float = 0.707107, spread: float = 0.282095) -> Tensor:
    """The distribution function of a normal: a smooth stand-in for the squared ReLU (arXiv:2209.10655)."""
    return 0.5 * (1.0 + torch.erf((hidden - middle) / (spread * math.sqrt(2.0))))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_python": functional.gelu,
    "gelu_10": lambda hidden: functional.gelu(hidden).clip(-10, 10),
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "gelu_python_tanh": partial(functional.gelu, approximate="tanh"),
    "gelu_accurate": partial(functional.gelu, approximate="tanh"),
    "gelu_fast": partial(_tanh_gelu, slope=0.7978845608),
    "quick_gelu": lambda hidden: hidden * torch.sigmoid(1.702 * hidden),
    "relu": functional.relu,
    "relu2": lambda hidden: functional.relu(hidden).square(),
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "hardswish": functional.hardswish,
    "laplace": _laplace,
    "linear": lambda hidden: hidden,
    "mish": functional.mish,
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda hidden: functional.softplus(hidden).sqrt(),
    "tanh": torch.tanh,
}
