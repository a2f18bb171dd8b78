"""How does a new adapter begin on a model, and how does it end in the model's weights?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.ports import adapter
from ptw.ports.adapter import DOWN, UP, WITHOUT_PORT, Adapter, Settings, is_plain
from ptw.ports.load import Loaded
from ptw.ports.mapping import Drawn, renamed
from ptw.ports.parallel import blocks

# where a family has experts, PEFT takes these names for theirs, and a dense layer of the name is left out
OF_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")


def begin(loaded: Loaded, settings: Settings, seed: int) -> list[Drawn]:
    """Put a new adapter on the layers that its targets name, and freeze all else.

    It starts as PEFT's does, A uniform as a linear layer's own weight, B zero: it changes nothing yet. Given
    are its parameters, which a model on the meta device has yet to be filled with.
    """
    places = targeted(loaded, settings.target_modules)
    random = torch.Generator().manual_seed(seed)
    linears = linear_layers(loaded.module)
    pairs = {}
    for name, place in sorted(places.items()):
        down = torch.empty(settings.r, linears[place].in_features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=random)
        pairs[name] = (down, torch.zeros(linears[place].out_features, settings.r))
    loaded.module.requires_grad_(False)
    adapter.attach(loaded, Adapter(settings, pairs))
    return [
        Drawn(f"{places[name]}{end}", matrix)
        for name, pair in pairs.items()
        for end, matrix in zip((DOWN, UP), pair, strict=True)
    ]


def all_linear(loaded: Loaded) -> tuple[str, ...]:
    """The target_modules that name every linear layer of the blocks that can have an adapter."""
    return tuple(sorted({name.rpartition(".")[2] for name in _adaptable(loaded)}))


def targeted(loaded: Loaded, targets: Sequence[str]) -> dict[str, str]:
    """Places in the model by the checkpoint's name of the layer; PtwError for a target that names none."""
    names = _adaptable(loaded)
    if not names:
        family = loaded.hf_config["model_type"]
        raise PtwError(
            f"settings: adapter: {family} has no linear layer that can have an adapter: its checkpoint holds "
            "matrices transposed, or not one by one; set adapter = 'none'"
        )
    found = {target: {name for name in names if f".{name}".endswith(f".{target}")} for target in targets}
    if missing := sorted(target for target, layers in found.items() if not layers):
        known = ", ".join(all_linear(loaded))
        raise PtwError(
            f"settings: lora_targets: {missing[0]!r} names no linear layer of the blocks that can have an "
            f"adapter; there are: {known}"
        )
    return {name: names[name] for layers in found.values() for name in layers}


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the blocks, by their place: no head, no table, no matrices of experts."""
    return {
        f"{place}.{name}": layer
        for place, block in blocks(module)
        for name, layer in block.named_modules()
        if is_plain(layer)
    }


def has_experts(module: nn.Module) -> bool:
    """Whether the blocks hold matrices stacked on one another."""
    return any(len(own.shape) > 2 for _, block in blocks(module) for own in block.parameters())


def merged(
    module: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], float]:
    """The state of the model alone, each adapter added to its weight, in `dtype` (None: each its own).

    `state` is the module's, in full. Beside it: which part of what the adapters add is lost by rounding to
    the dtype, as a norm over all layers. The sum is made in fp64 and rounded once.
    """
    layers = adapter.attached(module)
    gone = {f"{place}{end}" for place in layers for end in (DOWN, UP)}
    plain = {name: _in(tensor, dtype) for name, tensor in state.items() if name not in gone}
    added = lost = 0.0
    for place, layer in layers.items():
        weight = state[f"{place}.weight"]
        change = state[f"{place}{UP}"].double() @ state[f"{place}{DOWN}"].double() * layer.settings.scaling
        exact = weight.double() + change
        plain[f"{place}.weight"] = exact.to(dtype or torch.promote_types(weight.dtype, torch.float32))
        added += change.square().sum().item()
        lost += (plain[f"{place}.weight"].double() - exact).square().sum().item()
    return plain, math.sqrt(lost / added) if added else 0.0


def _in(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None else tensor.to(dtype)


def _adaptable(loaded: Loaded) -> dict[str, str]:
    """Places by the checkpoint's name of the layer, for all layers that PEFT finds under this name, too."""
    places = linear_layers(loaded.module)
    if loaded.port is None:
        names = {place.removeprefix(WITHOUT_PORT): place for place in places}
    else:
        names = {
            theirs.removesuffix(".weight"): ours.removesuffix(".weight")
            for ours, theirs in renamed(loaded.operators).items()
            if ours.removesuffix(".weight") in places and ours.endswith(".weight")
        }
    experts = OF_EXPERTS if has_experts(loaded.module) else ()
    return {name: place for name, place in names.items() if name.rpartition(".")[2] not in experts}
