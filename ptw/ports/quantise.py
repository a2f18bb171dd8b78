"""How does a frozen base take a quarter of its memory? In NF4, as QLoRA has it (Dettmers et al., 2023)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptw.errors import PtwError
from ptw.ports.adapting import linear_layers

LIBRARY = "bitsandbytes"
BLOCK = 64  # weights with one scale
FARTHEST = 0.17  # of a block's largest weight: half the widest gap of NF4's values, and what the scale loses


@dataclass(frozen=True)
class NF4:
    """How a weight is packed; called, it is the product with the unpacked one, which is never kept."""

    state: Any  # bitsandbytes' QuantState: scales of 64 weights each, quantised themselves

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = _library().matmul_4bit(input, weight.t(), quant_state=self.state, bias=bias)
        return product

    def unpacked(self, weight: Tensor) -> Tensor:
        """The weight in the dtype that it was packed from."""
        found: Tensor = _library().functional.dequantize_4bit(weight.to(self.state.absmax.device), self.state)
        return found


class NF4Linear(nn.Linear):
    """A linear layer whose weight stays packed, two values a byte, and never learns."""

    def __init__(self, base: nn.Linear, weight: Tensor, product: NF4) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = base.in_features, base.out_features, base.bias
        self.weight, self.product = nn.Parameter(weight, requires_grad=False), product

    def forward(self, input: Tensor) -> Tensor:
        return self.product(input, self.weight, self.bias)


def quantise(module: nn.Module, device: torch.device, stays_on: torch.device) -> float:
    """Pack the linear layers of the blocks, one at a time, on the device; then all but scales `stays_on` one.

    Returns how far the packed matrices are from their own, as a norm relative to theirs. PtwError without
    bitsandbytes, and where what it packs does not come back.
    """
    library, whole, error = _library(), 0.0, 0.0
    for place, layer in linear_layers(module).items():
        weight = layer.weight.detach().to(device)
        packed, state = library.functional.quantize_4bit(
            weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=True
        )
        product = NF4(state)
        difference = product.unpacked(packed).double() - weight.double()
        _demand_close(difference, weight, place, library.__version__)
        whole += weight.double().square().sum().item()
        error += difference.square().sum().item()
        owner, _, attribute = place.rpartition(".")
        setattr(module.get_submodule(owner), attribute, NF4Linear(layer, packed.to(stays_on), product))
    module.to(stays_on)
    return math.sqrt(error / whole) if whole else 0.0


@dataclass(frozen=True)
class PackedBytes:
    """What a matrix takes when it is packed: its values, which are sharded, and beside them its scales."""

    values: int
    scales: int

    @classmethod
    def of(cls, weights: int) -> PackedBytes:
        """Two values a byte; a byte a block for its scale; of 256 scales one of fp32; both tables of values,
        and the mean of the scales."""
        scales = -(-weights // BLOCK)
        return cls(-(-weights // 2), scales + 4 * -(-scales // 256) + 4 * (16 + 256 + 1))


def unpacked(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The module's state with its packed weights as matrices again, where the others are."""
    products = {place: getattr(layer, "product", None) for place, layer in module.named_modules()}
    packed = {f"{place}.weight": one for place, one in products.items() if isinstance(one, NF4)}
    return {
        name: packed[name].unpacked(tensor).to(tensor.device) if name in packed else tensor
        for name, tensor in state.items()
    }


def _demand_close(difference: Tensor, weight: Tensor, place: str, version: str) -> None:
    """NF4 bounds each weight's error. bitsandbytes 0.50 breaks that on CPUs, for rows such as of 32 or 48."""
    errors, sizes = (_blocks(tensor.abs().double()).amax(-1) for tensor in (difference, weight))
    if not (errors <= FARTHEST * sizes).all():
        raise PtwError(
            f"settings: adapter = 'qlora': bitsandbytes {version} does not give {place} of shape "
            f"{tuple(weight.shape)} back on {weight.device.type}; take another device, or adapter = 'lora'"
        )


def _blocks(tensor: Tensor) -> Tensor:
    return functional.pad(tensor.flatten(), (0, -tensor.numel() % BLOCK)).view(-1, BLOCK)


def _library() -> Any:
    if find_spec(LIBRARY) is None:
        raise PtwError("settings: adapter = 'qlora' needs bitsandbytes: pip install 'ptw[qlora]'")
    # on a CPU without the package `kernels` it says at each start that it goes without
    logging.getLogger(LIBRARY).setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes
