"""What does the reference compute? Hugging Face's own class, built from a checkpoint's files and run exactly.

Imports transformers: used in the case maker's and the reference's processes only, never in a port's.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.verify.drawing.informative import informative_weights, kept_in_fp32

# kernels that take no fp64 have a plain path beside them
PLAIN = {"attn_implementation": "eager", "experts_implementation": "eager"}

SINGLE = torch.empty(0, dtype=torch.float32)  # what is like it is fp32 even where the word means fp64


def config_class(model_type: str) -> Any:
    """The config class of a family of causal language models."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise PtwError(
            f"models/{model_type}.py: transformers has no causal model of model_type {model_type!r}: "
            "name the file by the model_type of the checkpoint's config.json"
        )
    return CONFIG_MAPPING[model_type]


def architecture(config: Any) -> str:
    """The class name that a checkpoint's config.json states."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return str(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__)


def build(config: Any) -> nn.Module:
    """A model of this config in fp64, to be filled. Call it under `exact()`."""
    from transformers import AutoModelForCausalLM

    logger = logging.getLogger("transformers")
    if logger.level != logging.ERROR:  # setting it empties what every logger remembers, which is slow
        logger.setLevel(logging.ERROR)
    model: nn.Module = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float64, **PLAIN)
    return model.eval()


def unfilled(config: Any) -> nn.Module:
    """The same with whatever stood in memory as its weights, which is quicker. Call it under `exact()`."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model: Any = build(config)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model


def drawn(config: Any, seed: int) -> nn.Module:
    """A model of this config with informative weights. Call it under `exact()`."""
    torch.manual_seed(seed)
    model = build(config)
    informative_weights(model, seed)
    return model


def opened(folder: Path) -> nn.Module:
    """The model of a checkpoint's folder, its weights read exactly. Call it under `exact()`."""
    from transformers import AutoConfig

    model = build(AutoConfig.from_pretrained(folder))
    stored = load_file(folder / "model.safetensors")
    if not stored.keys() <= model.state_dict().keys():  # as the Hub has it
        stored = opened_at(folder, "auto").state_dict()
    model.load_state_dict(stored, strict=False)  # tied weights are left out of the file
    tie = getattr(model, "tie_weights", None)
    if tie is not None:
        tie()
    return model


def opened_at(folder: Path, dtype: torch.dtype | Literal["auto"]) -> nn.Module:
    """The model of a checkpoint's folder as a user opens it in this dtype, its attention written out."""
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, **PLAIN
    )
    return model.eval()


def fresh(model: nn.Module) -> nn.Module:
    """The same parameters in a model that ran nothing, where one that ran remembers."""
    if not remembers(model):
        return model
    shared = {id(tensor): tensor for tensor in model.parameters()}
    return copy.deepcopy(model, shared)


def remembers(model: nn.Module) -> bool:
    """Whether it has a RoPE of a type that keeps the length that it saw last."""
    kinds = {str(getattr(module, "rope_type", "")) for module in model.modules()}
    return any(kind in text for text in kinds for kind in ("dynamic", "longrope"))


def forward(model: nn.Module, ids: Tensor) -> Tensor:
    """(T, V) logits of one document, (T,) ids, with nothing cached."""
    logits: Tensor = fresh(model)(ids[None], use_cache=False).logits[0]
    return logits


def stepped(model: nn.Module, ids: Tensor, prefill: int) -> Tensor:
    """(S, V) logits of the last token of a prefill, and of each step through the cache after it."""
    module: Any = fresh(model)
    answer = module(ids[None, :prefill], use_cache=True)
    logits = [answer.logits[0, -1]]
    for place in range(prefill, len(ids)):
        one = ids[None, place : place + 1]
        answer = module(one, past_key_values=answer.past_key_values, use_cache=True)
        logits.append(answer.logits[0, -1])
    return torch.stack(logits)


def saved_names(model: nn.Module) -> list[str]:
    """The tensors that a checkpoint of this model holds; of tied ones, one."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    left_out = set(tied) if isinstance(tied, Mapping) else set()
    return [name for name in model.state_dict() if name not in left_out]


def published(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """These tensors of a model as the Hub has them: by other names, or an expert at a time."""
    with tempfile.TemporaryDirectory() as folder:
        anything: Any = model
        anything.save_pretrained(folder, state_dict=dict(tensors), max_shard_size="1TB")
        return load_file(Path(folder) / "model.safetensors")


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of this model holds, under its names and in its dtypes."""
    state, kept, found = model.state_dict(), kept_in_fp32(model), {}
    for name in saved_names(model):
        tensor = state[name]
        if tensor.is_floating_point():
            tensor = tensor.to(SINGLE) if name in kept else tensor.to(torch.bfloat16)
        found[name] = tensor.contiguous()
    return found
