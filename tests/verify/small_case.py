"""A small thorough case of any family, made without the case maker: checkpoint, documents, an adapter."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

from ptw.verify.exact import exact
from ptw.verify.reference import hf

SIZES = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LENGTHS = (9, 5, 14)
RANK = 4


def make(folder: Path, model_type: str = "llama", **values: object) -> Path:
    """given/NAME as the case maker writes it, with the inputs that adapters and sharding need."""
    plain = AutoConfig.for_model(model_type)
    sizes = {key: value for key, value in SIZES.items() if hasattr(plain, key)}
    config = AutoConfig.for_model(model_type, **sizes | values, dtype="bfloat16")
    with exact(), torch.no_grad():
        model = hf.drawn(config, seed=3)
    config.architectures = [hf.architecture(config)]
    checkpoint = folder / "checkpoint"
    config.save_pretrained(checkpoint)
    save_file(hf.saved_tensors(model), checkpoint / "model.safetensors")
    _write_inputs(folder)
    _write_adapter(folder / "adapter", model)
    return folder


def _write_inputs(folder: Path) -> None:
    lengths = torch.tensor(LENGTHS)
    ids = torch.randint(0, SIZES["vocab_size"], (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    targets = ids.roll(-1)
    targets[lengths.cumsum(0) - 1] = -100
    inputs = {
        "ids": ids,
        "lengths": lengths,
        "changed": ids.roll(1),
        "gradient.ids": ids.clone(),
        "gradient.lengths": lengths.clone(),
        "gradient.targets": targets,
    }
    save_file(inputs, folder / "inputs.safetensors")


def _write_adapter(folder: Path, model: torch.nn.Module) -> None:
    folder.mkdir()
    generator = torch.Generator().manual_seed(2)
    tensors, targets = {}, set()
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".layers." in name:
            targets.add(name.rpartition(".")[2])
            down = torch.randn(RANK, layer.in_features, generator=generator) * 0.1
            up = torch.randn(layer.out_features, RANK, generator=generator) * 0.1
            key = f"base_model.model.{name}"
            tensors[f"{key}.lora_A.weight"] = down.bfloat16().float()
            tensors[f"{key}.lora_B.weight"] = up.bfloat16().float()
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": sorted(targets),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(said))


def inputs_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "inputs.safetensors")
