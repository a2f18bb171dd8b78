"""Which weights let a mistake show? Spread ones: default initialisation multiplies code paths by 0 or 1.

Attention is peaked (logits of standard deviation 1.5 to 2), norms and biases lie apart from 1 and 0, and
every value is representable in bf16, so that fp64, fp32 and bf16 runs have the same weights.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

SPREAD = 0.3  # of norms around their mean and of biases around 0
PEAKED = 1.35  # the gain of queries and of keys: logits spread by its square
SCORING = ("q_proj", "k_proj", "q_b_proj", "kv_b_proj", "qkv_proj", "query_key_value", "q_norm", "k_norm")


def informative_weights(model: nn.Module, seed: int) -> None:
    """Fill the parameters and persistent buffers of a freshly initialised model, each by its name alone."""
    persistent = set(model.state_dict())
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in persistent and tensor.is_floating_point():
                value = _value(name, tensor, generator(seed, name))
                tensor.copy_(value.to(torch.bfloat16).to(tensor.dtype))


def generator(seed: int, name: str) -> torch.Generator:
    """Random numbers that depend on the name, not on which other tensors there are."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _value(name: str, tensor: Tensor, random: torch.Generator) -> Tensor:
    noise = torch.randn(tensor.shape, generator=random, dtype=torch.float32)
    gain = PEAKED if any(f".{part}." in f".{name}" for part in SCORING) else 1.0
    if tensor.dim() < 2:
        # initialised to one value: a norm (1, or 0 for those that add 1) or a bias; else it is noise already
        constant = tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all())
        middle = float(tensor.flatten()[0]) if constant else 0.0
        return gain * middle + (SPREAD if constant else 1.0) * noise
    if "embed" in name:
        return noise
    return gain * noise * tensor.shape[-1] ** -0.5
