"""How does a trained port become a folder that plain transformers and vLLM load?"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ptw.errors import PtwError
from ptw.ports.checkpoint import INDEX
from ptw.ports.classifier import bring
from ptw.ports.load import Loaded, to_hf

SHARD_BYTES = 5 * 2**30


def export(
    loaded: Loaded,
    folder: Path,
    *,
    state: Mapping[str, Tensor] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json and safetensors shards; the folder appears whole or not at all.

    `state` gives full tensors by the port's parameter names where the module's own are sharded. PtwError if
    the folder is there already and not empty, or if the disk is full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PtwError(f"{folder}: there is something already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_checkpoint(loaded, aside, state=state, shard_bytes=shard_bytes)
        aside.chmod(0o755)
        aside.replace(folder)
    except (OSError, SafetensorError) as error:
        raise PtwError(f"{folder}: could not be written: {error}; nothing was left behind") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_checkpoint(
    loaded: Loaded, folder: Path, *, state: Mapping[str, Tensor] | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """The same into a folder that is there, which the caller publishes."""
    tensors = dict(_tensors(loaded, loaded.module.state_dict() if state is None else state))
    shards = list(_shards(tensors, shard_bytes))
    names = [_file_name(number, len(shards)) for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        # contiguous, and of its own memory: safetensors refuses views that share
        save_file(
            {key: tensors[key].detach().cpu().contiguous() for key in shard}, folder / name, {"format": "pt"}
        )
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    bring(loaded.hf_config, folder)
    dtype = next(iter(tensors.values())).dtype
    (folder / "config.json").write_text(json.dumps(_config(loaded, dtype), indent=2, sort_keys=True) + "\n")


def _tensors(loaded: Loaded, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    if loaded.port is None:
        from ptw.ports.fallback import reference_tensors

        yield from reference_tensors(loaded.module, state)
    else:
        yield from to_hf(loaded.operators, state)


def _config(loaded: Loaded, dtype: torch.dtype) -> dict[str, Any]:
    """The configuration as it came, with the dtype of what was written and transformers' class."""
    values = {key: value for key, value in loaded.hf_config.items() if key != "torch_dtype"}
    values["dtype"] = str(dtype).removeprefix("torch.")
    if "architectures" not in values:
        values["architectures"] = [_causal_class(values["model_type"])]
    return values


def _causal_class(model_type: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    assert isinstance(name, str), f"transformers has no causal model of type {model_type!r}"
    return name


def _shards(tensors: Mapping[str, Tensor], shard_bytes: int) -> Iterator[list[str]]:
    shard: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += tensor.nbytes
    yield shard


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
