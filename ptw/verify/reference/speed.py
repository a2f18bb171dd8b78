"""How fast does the reference learn and decode, in whatever way it does so fastest? While nothing else runs.

Imports transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptw.verify import timing
from ptw.verify.reference import hf
from ptw.verify.subject import Tensors

ATTENTIONS = ("sdpa", "eager")  # the first that the family has


def timed(checkpoint: Path, inputs: Tensors, device: str) -> Tensors:
    """step_DEVICE, decode_DEVICE: (rounds,) seconds; memory_DEVICE: bytes; loss, logits."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = opened(checkpoint, dtype, device)
    model.eval()  # without dropout, which no port has
    alone, packed = _step(model, inputs, device, alone=True), _step(model, inputs, device, alone=False)
    # packed it may leak between documents: for time and memory that is nothing
    found = {"loss": alone().double().cpu()}
    kept = [timing.kept_bytes(step, device) for step in (alone, packed)]
    quickest = min((alone, packed), key=lambda step: timing.seconds(step, device, rounds=1).item())
    found[f"step_{device}"] = timing.seconds(quickest, device)
    decode = _decode(model, inputs, device)
    found["logits"] = decode().float().cpu()
    found[f"decode_{device}"] = timing.seconds(decode, device)
    return found | {f"memory_{device}": max(kept, key=float)}


def opened(checkpoint: Path, dtype: torch.dtype, device: str) -> Any:
    """Hugging Face's class of a configuration, its weights drawn by their names."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**json.loads((checkpoint / "config.json").read_text()))
    for attention in ATTENTIONS:
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
            break
        except ValueError:
            if attention == ATTENTIONS[-1]:
                raise
    state = model.state_dict()
    with torch.no_grad():
        for name in hf.saved_names(model):
            state[name].copy_(timing.weight(name, state[name].shape))
    return model.to(device)


def _step(model: Any, inputs: Tensors, device: str, *, alone: bool) -> Callable[[], Tensor]:
    lengths = inputs["speed.lengths"].tolist()
    whole = [inputs[f"speed.{name}"] for name in ("ids", "targets")]
    whole.append(torch.cat([torch.arange(length) for length in lengths])[None])
    split = [tensor.to(device).split(lengths, 1) for tensor in whole]
    parts = list(zip(*split, strict=True)) if alone else [tuple(tensor.to(device) for tensor in whole)]
    learnt = torch.ones((), device=device)  # of the sum of the losses, not of their mean

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        for ids, targets, positions in parts:
            said = {"input_ids": ids, "labels": targets, "shift_labels": targets, "position_ids": positions}
            loss = model(**said, num_items_in_batch=learnt, use_cache=False).loss
            loss.backward()
            total += loss.detach()
        model.zero_grad(set_to_none=True)
        return total

    return step


def _decode(model: Any, inputs: Tensors, device: str) -> Callable[[], Tensor]:
    prompts_BT, tokens_BS = (inputs[f"speed.{name}"].to(device) for name in ("prompts", "tokens"))

    @torch.no_grad()
    def decode() -> Tensor:
        answer = model(prompts_BT, use_cache=True, logits_to_keep=1)
        for tokens_B1 in tokens_BS.split(1, dim=1):
            answer = model(tokens_B1, past_key_values=answer.past_key_values, use_cache=True)
        logits: Tensor = answer.logits[:, -1]
        return logits

    return decode
