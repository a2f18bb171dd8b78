"""Which LoRA adapter shows a mistake? A large one on every projection of the blocks, in PEFT's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.ports.adapting import OF_EXPERTS
from ptw.ports.parallel import blocks
from ptw.verify.drawing.informative import generator
from ptw.verify.reference import hf

RANK, ALPHA = 4, 8
SIZE = 0.3  # of what an adapter adds, beside a projection's own output
MOVED = 1e-3  # relative: the least that it does to the logits


def write_adapter(model: nn.Module, seed: int, ids: Tensor, folder: Path, *, experts: bool) -> None:
    """adapter_config.json and adapter_model.safetensors; nothing where the blocks have no nn.Linear.

    experts: whether the family has any, though perhaps none in this model: PEFT goes by the family.
    """
    linears = projections(model, experts=experts)
    if not linears:
        return
    pairs = {name: _pair(name, linear, seed) for name, linear in linears.items()}
    moved = _effect(model, linears, pairs, ids)
    if not moved > MOVED:
        raise PtwError(f"an adapter on {', '.join(sorted(linears))} moves the logits by {moved:.1e} only")
    folder.mkdir()
    tensors = {}
    for name, (down, up) in pairs.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.rpartition(".")[2] for name in linears})
    (folder / "adapter_config.json").write_text(json.dumps(_config(targets), indent=1, sort_keys=True))


def projections(model: nn.Module, *, experts: bool) -> dict[str, nn.Linear]:
    """Every nn.Linear inside the repeated blocks that PEFT can adapt, under its full name."""
    prefixes = tuple(f"{name}." for name, _ in blocks(model))
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(prefixes)
        and not (experts and name.rpartition(".")[2] in OF_EXPERTS)
    }


def _pair(name: str, linear: nn.Linear, seed: int) -> tuple[Tensor, Tensor]:
    """(r, in) and (out, r), in fp32 and representable in bf16."""
    random = generator(seed, f"lora {name}")
    down = torch.randn(RANK, linear.in_features, generator=random, dtype=torch.float32)
    up = torch.randn(linear.out_features, RANK, generator=random, dtype=torch.float32)
    pair = down * linear.in_features**-0.5, up * (SIZE * RANK / ALPHA * RANK**-0.5)
    first, second = (tensor.to(torch.bfloat16).to(hf.SINGLE) for tensor in pair)
    return first, second


def _effect(
    model: nn.Module, linears: dict[str, nn.Linear], pairs: dict[str, tuple[Tensor, Tensor]], ids: Tensor
) -> float:
    """Relative, on the logits of one document."""
    before = hf.forward(model, ids)
    held = {name: linear.weight.data for name, linear in linears.items()}
    for name, (down, up) in pairs.items():
        linears[name].weight.data = held[name] + ALPHA / RANK * (up.double() @ down.double())
    after = hf.forward(model, ids)
    for name, weight in held.items():
        linears[name].weight.data = weight
    return float((after - before).norm() / before.norm())


def _config(targets: list[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": False,
        "layers_pattern": None,
        "layers_to_transform": None,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
