"""Which weights let a mistake show? Spread ones: default initialisation multiplies code paths by 0 or 1.

Attention is peaked (logits of standard deviation 1.5 to 2), norms and biases lie apart from 1 and 0, and
every value is representable in bf16, so that fp64, fp32 and bf16 runs have the same weights. What a family
keeps in fp32 has values that bf16 can't hold.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

SPREAD = 0.3  # of norms around their mean and of biases around 0
PEAKED = 1.35  # the gain of queries and of keys: logits spread by its square
SCORING = ("q_proj", "k_proj", "q_b_proj", "kv_b_proj", "qkv_proj", "query_key_value", "q_norm", "k_norm")
FAR = 7.0  # the middle of what is kept in fp32, in every other model: bf16 steps by 1/32 there
OUTLIERS = 128.0
CLOSE = 0.1  # its spread


def informative_weights(model: nn.Module, seed: int) -> None:
    """Fill the parameters and persistent buffers of a freshly initialised model, each by its name alone."""
    kept = kept_in_fp32(model)
    with torch.no_grad():
        for name, tensor in _filled(model):
            value = _value(name, tensor.shape, _constant(tensor), seed, fp32=name in kept)
            tensor.copy_(value)


class Weights:
    """The same for many models of one family: what was drawn before is not drawn again, nor initialised."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.constants: dict[str, float | None] = {}  # by name, layers alike
        self.values: dict[tuple[Any, ...], Tensor] = {}

    def fill(self, model: nn.Module, initialised: Callable[[], nn.Module]) -> nn.Module:
        """`model` with informative weights. It need not be initialised; `initialised()` is."""
        filled = list(_filled(model))
        if any(tensor.dim() < 2 and pattern(name) not in self.constants for name, tensor in filled):
            model = initialised()
            filled = list(_filled(model))
            self.constants |= {pattern(name): _constant(tensor) for name, tensor in filled}
        kept = kept_in_fp32(model)
        for name, tensor in filled:
            constant = self.constants[pattern(name)] if tensor.dim() < 2 else None
            key = (name, tuple(tensor.shape), constant, name in kept)
            if key not in self.values:
                drawn = _value(name, tensor.shape, constant, self.seed, fp32=name in kept)
                self.values[key] = drawn.to(tensor.dtype)
            # shared, not copied: nobody writes to the weights of a model that is only tried
            tensor.data = self.values[key]
        return model


def outliers(model: Any) -> None:
    """Two channels of the embedding far above the others, as large models have them."""
    with torch.no_grad():
        # by a power of two: every value stays representable in bf16
        model.get_input_embeddings().weight[:, :2] *= OUTLIERS


def pattern(name: str) -> str:
    """A tensor's name with * for the numbers of layers and experts."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def kept_in_fp32(model: Any) -> set[str]:
    """The tensors that stay in fp32 when the family is loaded in bf16."""
    parts = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if not parts:
        return set()
    shaped = re.compile("|".join(rf"(^|\.){re.escape(part)}(\.|$)" for part in sorted(parts)))
    return {name for name in model.state_dict() if shaped.search(name)}


def generator(seed: int, name: str) -> torch.Generator:
    """Random numbers that depend on the name, not on which other tensors there are."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _filled(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    persistent: Mapping[str, Tensor] = model.state_dict()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in persistent and tensor.is_floating_point():
            yield name, tensor


def _constant(tensor: Tensor) -> float | None:
    """The one value that it was initialised to: a norm (1, or 0 for those that add 1) or a bias."""
    if tensor.dim() > 1 or not tensor.numel():
        return None
    first = float(tensor.flatten()[0])
    return first if bool((tensor == first).all()) else None


def _value(name: str, shape: torch.Size, constant: float | None, seed: int, *, fp32: bool) -> Tensor:
    noise = torch.randn(shape, generator=generator(seed, name), dtype=torch.float32)
    if fp32 and len(shape) < 2:
        # spread around zero too: a router's bias decides there between what is masked and what is not
        return noise.double() if seed % 2 else (FAR + CLOSE * noise).double()
    gain = PEAKED if any(f".{part}." in f".{name}" for part in SCORING) else 1.0
    if len(shape) < 2:
        middle = constant or 0.0
        value = gain * middle + (SPREAD if constant is not None else 1.0) * noise
    elif "embed" in name:
        value = noise
    else:
        value = gain * noise * shape[-1] ** -0.5
    return value.to(torch.bfloat16).double()
