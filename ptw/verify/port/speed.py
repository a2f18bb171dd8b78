"""How fast does a port learn and decode? In its own process, while nothing else runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ptw.nn.cache import KVCache
from ptw.nn.layout import Layout
from ptw.ports.load import create
from ptw.ports.mapping import as_named
from ptw.ports.weights import Operator
from ptw.verify import timing
from ptw.verify.subject import Tensors


def timed(root: Path, checkpoint: Path, inputs: Tensors, device: str) -> Tensors:
    """step_DEVICE, decode_DEVICE: (rounds,) seconds; memory_DEVICE: bytes; loss, logits."""
    values = json.loads((checkpoint / "config.json").read_text())
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    loaded = create(values, root, seed=0, dtype=dtype, device=device)
    names = json.loads((checkpoint.parent / timing.NAMES).read_text())
    _fill(loaded.module, as_named(loaded.operators, names))
    model: Any = loaded.module
    rows = [inputs["speed.lengths"].tolist()]
    ids_BT, targets_BT, prompts_BT, tokens_BS = (
        inputs[f"speed.{name}"].to(device) for name in ("ids", "targets", "prompts", "tokens")
    )

    def step() -> Tensor:
        layout = Layout.of_documents(rows, device=device)
        loss: Tensor = model.head().loss(model(ids_BT, layout), targets_BT)
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    @torch.no_grad()
    def decode() -> Tensor:
        cache = KVCache(model.config.num_hidden_layers)
        rows, width = prompts_BT.shape
        logits = model.head().logits(model(prompts_BT, cache.step([width] * rows, device), cache)[:, -1])
        for tokens_B1 in tokens_BS.split(1, dim=1):
            logits = model.head().logits(model(tokens_B1, cache.step([1] * rows, device), cache)[:, -1])
        return cast(Tensor, logits)

    model.train()
    found = {"loss": step().double().cpu(), f"memory_{device}": timing.kept_bytes(step, device)}
    found[f"step_{device}"] = timing.seconds(step, device)
    model.eval()
    found["logits"] = decode().float().cpu()
    found[f"decode_{device}"] = timing.seconds(decode, device)
    return found


@torch.no_grad()
def _fill(module: nn.Module, operators: Sequence[Operator]) -> None:
    """Every checkpoint tensor drawn by its name, and brought into the port by its own map."""
    parameters = dict(module.named_parameters())
    for operator in operators:
        had = operator.to_hf([parameters[name] for name in operator.ours])
        pairs = zip(operator.theirs, had, strict=True)
        drawn = [timing.weight(name, tensor.shape) for name, tensor in pairs]
        for name, tensor in zip(operator.ours, operator.from_hf(drawn), strict=True):
            parameters[name].copy_(tensor)
