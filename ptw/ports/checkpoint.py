"""What does a folder in Hugging Face's format hold? Configuration and tensors, checked before any is used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ptw.errors import PtwError

INDEX = "model.safetensors.index.json"
# of weights, as safetensors calls them, and their bits
FLOATS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}


@dataclass(frozen=True)
class Checkpoint:
    """A folder's config.json and, for every tensor, the file that holds it. Tensors are read one by one."""

    folder: Path
    hf_config: Mapping[str, Any]
    files: Mapping[str, Path]

    def place(self, names: Sequence[str] = ()) -> str:
        """Where to look: the files that hold these tensors; without names the index, if there is one."""
        files = sorted({self.files[name] for name in names or self.files})
        if not names and (self.folder / INDEX).exists():
            return str(self.folder / INDEX)
        others = "".join(f", {file.name}" for file in files[1:4])
        return f"{files[0]}{others}" if files else str(self.folder)

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
        declared = {name: folder / _file_name(file) for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PtwError(f"{index}: not an index of safetensors files: {error!r}") from error
    held = {file: _names(file) for file in sorted(set(declared.values()))}
    if missing := sorted(name for name, file in declared.items() if name not in held[file]):
        raise PtwError(f"{index}: names {missing[0]!r}, which {declared[missing[0]].name} does not hold")
    return Checkpoint(folder, hf_config, _once(held))


def demand_floats(checkpoint: Checkpoint, names: Sequence[str]) -> None:
    """PtwError if one of these tensors has no floating dtype, or another one than its equals in width.

    A header that is damaged so has the right sizes, and gives other numbers.
    """
    first: dict[int, str] = {}
    dtypes = _dtypes(checkpoint, names)
    for name, dtype in dtypes.items():
        bits = FLOATS.get(dtype)
        if bits is None:
            raise PtwError(
                f"{checkpoint.place([name])}: {name} is of dtype {dtype}, which is none of weights "
                f"({', '.join(FLOATS)}); if the model is quantised, load it with transformers, "
                "dequantize() and save_pretrained() it; else copy it again"
            )
        other = first.setdefault(bits, name)
        if dtypes[other] != dtype:
            raise PtwError(
                f"{checkpoint.place([name, other])}: {name} is of dtype {dtype} and {other} of "
                f"{dtypes[other]}: one of them is damaged; copy it again"
            )


def _dtypes(checkpoint: Checkpoint, names: Sequence[str]) -> dict[str, str]:
    """As the headers have them."""
    found: dict[str, str] = {}
    for path in sorted({checkpoint.files[name] for name in names}):
        with safe_open(path, framework="pt") as file:
            mine = [name for name in names if checkpoint.files[name] == path]
            found |= {name: file.get_slice(name).get_dtype() for name in mine}
    return found


def _file_name(name: object) -> str:
    if not isinstance(name, str) or not name.endswith(".safetensors") or "/" in name:
        raise ValueError(f"{str(name)[:40]!r} is no name of a safetensors file")
    return name


def _from_files(folder: Path) -> dict[str, Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "none"
        raise PtwError(
            f"{folder}: no *.safetensors (other weight files: {others}); "
            "load the model with transformers and save_pretrained() it"
        )
    return _once({file: _names(file) for file in files})


def _once(held: Mapping[Path, Sequence[str]]) -> dict[str, Path]:
    """The file of every tensor; PtwError where two hold one: readers differ in which one counts."""
    found: dict[str, Path] = {}
    for file, names in held.items():
        for name in names:
            if name in found:
                raise PtwError(
                    f"{file}: tensor {name!r} stands in {found[name].name} too; remove the wrong one"
                )
            found[name] = file
    return found


def _names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except FileNotFoundError as error:
        raise PtwError(f"{file}: missing, though {INDEX} names it; copy the whole checkpoint") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise PtwError(f"{file}: damaged or cut short ({error}); copy it again") from error
