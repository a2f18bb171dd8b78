"""How does a frozen base take a quarter of its memory? In NF4, as QLoRA has it (Dettmers et al., 2023)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptw.errors import PtwError
from ptw.ports.adapting import linear_layers
from ptw.ports.weights import Operator

LIBRARY = "bitsandbytes"
BLOCK = 64  # weights with one scale
FARTHEST = 0.17  # of a block's largest weight: half the widest gap of NF4's values, and what the scale loses


class NF4:
    """How a layer's weight is packed; called, it is the product with the unpacked one, which is not kept.

    state: bitsandbytes' QuantState: scales of 64 weights each, quantised themselves; on the device.
    """

    def __init__(self, place: str, weight: Tensor, device: torch.device) -> None:
        self.place, self.shape, self.dtype, self.device = place, weight.shape, weight.dtype, device
        self.state: Any = None
        self.norm = self.error = 0.0  # squared: of the weight, and of what packing it changes

    def pack(self, weight: Tensor) -> Tensor:
        """Two values a byte, on the device. PtwError where they do not come back, or are of another shape."""
        if weight.shape != self.shape:  # packed, a matrix has the shape of its transpose
            raise PtwError(f"config.json asks for {self.place} of shape {tuple(self.shape)}")
        library, weight = _library(), weight.detach().to(self.device, self.dtype)
        packed, self.state = library.functional.quantize_4bit(
            weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=True
        )
        difference = self.unpacked(packed).double() - weight.double()
        _demand_close(difference, weight, self.place, library.__version__)
        self.norm, self.error = (one.double().square().sum().item() for one in (weight, difference))
        return cast(Tensor, packed)

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.is_meta:  # what it computes is counted before it is packed
            return functional.linear(input, input.new_empty(self.shape), bias)
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


@dataclass(frozen=True)
class Packing:
    """An operator whose parameters are packed when they are made, as far as they are to be."""

    operator: Operator
    products: Mapping[str, NF4]  # by the name of the parameter
    theirs: tuple[str, ...]
    ours: tuple[str, ...]

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        made = zip(self.ours, self.operator.from_hf(tensors), strict=True)
        return [self.products[name].pack(one) if name in self.products else one for name, one in made]

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        held = zip(self.ours, tensors, strict=True)
        made = [self.products[name].unpacked(one) if name in self.products else one for name, one in held]
        return self.operator.to_hf(made)


def pack(module: nn.Module, device: torch.device, operators: Sequence[Operator]) -> list[Operator]:
    """Have the linear layers of the blocks packed, one at a time, on the device.

    Where they have no memory yet that is done by the operators that it gives, which fill them; else now, and
    they stay where they are. PtwError without bitsandbytes, and where what it packs does not come back.
    """
    _library()
    products = {}
    for place, layer in linear_layers(module).items():
        weight, product = layer.weight, NF4(place, layer.weight, device)
        if weight.is_meta:
            packed = torch.empty(PackedBytes.of(weight.numel()).values, 1, dtype=torch.uint8, device="meta")
        else:
            packed = product.pack(weight).to(weight.device)
        owner, _, attribute = place.rpartition(".")
        setattr(module.get_submodule(owner), attribute, NF4Linear(layer, packed, product))
        products[f"{place}.weight"] = product
    return [
        Packing(one, products, one.theirs, one.ours) if products.keys() & set(one.ours) else one
        for one in operators
    ]


def lost(module: nn.Module) -> float:
    """How far the packed matrices are from their own, as a norm relative to theirs."""
    packed = _products(module).values()
    norm = sum(one.norm for one in packed)
    return math.sqrt(sum(one.error for one in packed) / norm) if norm else 0.0


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
    packed = _products(module)
    return {
        name: packed[name].unpacked(tensor).to(tensor.device) if name in packed else tensor
        for name, tensor in state.items()
    }


def _products(module: nn.Module) -> dict[str, NF4]:
    """Of the packed weights, by the parameter's name."""
    products = {place: getattr(layer, "product", None) for place, layer in module.named_modules()}
    return {f"{place}.weight": one for place, one in products.items() if isinstance(one, NF4)}


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
