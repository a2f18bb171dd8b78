"""What does a folder in Hugging Face's format hold? Configuration and tensors, checked before any is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ptw.errors import PtwError

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A folder's config.json and, for every tensor, the file that holds it. Tensors are read one by one."""

    folder: Path
    hf_config: Mapping[str, Any]
    files: Mapping[str, Path]

    def read(self, name: str) -> Tensor:
        """One tensor, from disk."""
        with safe_open(self.files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor


def read_config(folder: Path) -> dict[str, Any]:
    """config.json; PtwError if it is missing, broken or names no architecture."""
    file = folder / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PtwError(f"{folder}: no config.json; a checkpoint in Hugging Face's format has one") from error
    except (OSError, ValueError) as error:
        raise PtwError(f"{file}: not readable as JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise PtwError(f'{file}: no `model_type`; it names the architecture, e.g. "llama"')
    return values


def open_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`; PtwError for a truncated, missing or doubled file or tensor."""
    hf_config = read_config(folder)
    index = folder / INDEX
    if not index.exists():
        return Checkpoint(folder, hf_config, _from_files(folder))
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        declared = {str(name): folder / str(file) for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PtwError(f"{index}: not an index of safetensors files: {error!r}") from error
    found = {name: file for file in sorted(set(declared.values())) for name in _names(file)}
    if missing := sorted(set(declared) - set(found)):
        raise PtwError(f"{index}: names {missing[0]!r}, which {declared[missing[0]].name} does not hold")
    return Checkpoint(folder, hf_config, found)


def _from_files(folder: Path) -> dict[str, Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none"
        raise PtwError(
            f"{folder}: no *.safetensors (other weight files: {others}); "
            "load the model with transformers and save_pretrained() it"
        )
    found: dict[str, Path] = {}
    for file in files:
        for name in _names(file):
            if name in found:
                raise PtwError(
                    f"{file}: tensor {name!r} stands in {found[name].name} too, and there is no {INDEX}"
                )
            found[name] = file
    return found


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except FileNotFoundError as error:
        raise PtwError(f"{file}: missing, though {INDEX} names it; copy the whole checkpoint") from error
    except (SafetensorError, OSError) as error:
        raise PtwError(f"{file}: damaged or cut short ({error}); copy it again") from error
