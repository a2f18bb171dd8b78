"""Which of a run's weights learn: all of them, or only an adapter on a frozen base?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ptw.errors import PtwError
from ptw.ports import adapter, adapting, quantise
from ptw.ports.load import Loaded
from ptw.ports.weights import Operator
from ptw.train import demand


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """The settings that every recipe takes over which can train an adapter (Hu et al., 2021)."""

    adapter: Literal["none", "lora", "qlora"] = "none"  # qlora: on a base in 4 bits
    lora_rank: int = 16
    lora_alpha: float = 32
    lora_dropout: float = 0.0  # of what an adapter reads, while it learns
    lora_targets: Literal["linear"] | list[str] = "linear"  # all of the blocks, or ends of their names
    lora_rslora: bool = False  # scale by alpha / sqrt(rank), not alpha / rank


EVERYTHING = AdapterSettings()  # learns


def demand_sense(settings: AdapterSettings, shape: bool, tensor: int) -> None:
    """PtwError for values that can't be, or that have no effect.

    shape: the model starts from nothing. tensor: neighbours that compute one batch between them.
    """
    if settings.adapter == "none":
        idle = [key for key, value in vars(EVERYTHING).items() if getattr(settings, key) != value]
        if idle:
            raise PtwError(f"settings: {idle[0]} has no effect without an adapter; set adapter = 'lora'")
        return
    demand.positive(lora_rank=settings.lora_rank)
    demand.not_negative(lora_alpha=settings.lora_alpha)
    demand.part(lora_dropout=settings.lora_dropout)
    if shape:
        raise PtwError(
            f"settings: adapter = {settings.adapter!r}: the model is a shape, and random weights that never "
            "learn are no base for an adapter; name a model with hf = ..., or set adapter = 'none'"
        )
    if settings.adapter == "qlora" and tensor > 1:
        raise PtwError(
            f"settings: adapter = 'qlora': matrices in 4 bits are not dealt by heads, and the cluster has "
            f"tensor = {tensor}; set tensor = 1, or adapter = 'lora'"
        )


def begin(loaded: Loaded, settings: AdapterSettings, seed: int, device: torch.device) -> Sequence[Operator]:
    """Put a new adapter on the model, which alone learns, where one is asked for; the operators that fill it.

    The model is a port's on the meta device, or a filled one. All workers make the same adapter. What is
    packed is packed on the device.
    """
    if settings.adapter == "none":
        return loaded.operators
    operators: Sequence[Operator] = loaded.operators
    if settings.adapter == "qlora":
        operators = quantise.pack(loaded.module, device, operators)
    targets = settings.lora_targets
    names = adapting.all_linear(loaded) if isinstance(targets, str) else tuple(targets)
    peft = adapter.Settings(
        settings.lora_rank, settings.lora_alpha, names, settings.lora_dropout, settings.lora_rslora
    )
    return [*operators, *adapting.begin(loaded, peft, seed)]


def notes(loaded: Loaded, settings: AdapterSettings) -> Iterator[str]:
    """What the adapter is, and what its base lost."""
    layers = adapter.attached(loaded.module).values()
    if not layers:
        return
    if settings.adapter == "qlora":
        away = quantise.lost(loaded.module)
        yield f"the base is in NF4, {away:.1%} of its matrices' norm away from the checkpoint"
    learns = sum(p.numel() for p in loaded.module.parameters() if p.requires_grad)
    names = ", ".join(next(iter(layers)).settings.target_modules)
    yield f"an adapter of {learns:,} parameters learns, on {len(layers)} layers: {names}"
