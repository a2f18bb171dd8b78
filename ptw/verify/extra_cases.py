"""Which cases does a family get beside the drawn ones? A wide one to take times on, and real checkpoints."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ptw.errors import PtwError
from ptw.ports.checkpoint import Checkpoint, open_checkpoint
from ptw.ports.source import held
from ptw.verify import sandbox
from ptw.verify.cases import Family, Reference
from ptw.workspace import manifest

COPIES, BYTES_A_SECOND = 8, 1 << 24  # of real weights: once in fp64, in bf16, and as they are read
TEXT = Path(__file__).with_name("essay.txt")
LEAST_TOKENS, MOST_TOKENS = 512, 768
WHOLE = "model.safetensors"
SMALL_BYTES = 128 << 20  # of a checkpoint that fits into any memory in fp64
WHY = "why"


def add_speed(families: Sequence[Family], reference: Reference) -> None:
    """`speed/wide` of each: its plain configuration made wider. Where the reference takes none, why."""
    requests = []
    for family in families:
        plain = [name for name in family.names if name.endswith("plain")]
        folder = family.folder / "speed"
        folder.mkdir(parents=True, exist_ok=True)
        if not plain:
            (family.folder / f"speed.{WHY}").write_text("there is no plain configuration")
            continue
        given = {"plain": str(family.given / plain[0] / "checkpoint"), "folder": str(folder / "wide")}
        requests.append({**given, "error": str(family.folder / f"speed.{WHY}")})
    reference.enlarge(requests)


def add_checkpoints(families: Sequence[Family], root: Path | None) -> None:
    """`checkpoint/NAME` for each model of the workspace whose weights are at hand, and a text for it."""
    models, broken = _models(root)
    for family in families:
        folder = family.folder / "checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        said = list(broken)
        for name, model in models.items():
            source = held(model.hf, model.revision, root) if model.hf and root is not None else None
            if source is None or model.port == "hf":
                continue
            try:
                checkpoint = open_checkpoint(source)
                if checkpoint.hf_config["model_type"] == family.model_type:
                    _add(folder / name, checkpoint)
            except PtwError as error:
                said.append(f"models.{name}: {error}")
        if not any(folder.iterdir()):
            none = f"no model of the workspace has weights of {family.model_type} on this machine"
            (family.folder / f"checkpoint.{WHY}").write_text("; ".join(said) or none)


def why_not(family: Family, kind: str) -> str:
    """Why a family has no case of a kind."""
    file = family.folder / f"{kind}.{WHY}"
    return file.read_text() if file.exists() else "no case of it could be made"


def files_of(folder: Path) -> Iterator[Path]:
    """What the links of cases lead to, so that a port's process can be shown it where it lies."""
    for link in sorted(folder.glob("*/checkpoint/*")):
        if link.is_symlink():
            yield link.resolve()


def _models(root: Path | None) -> tuple[Mapping[str, Any], list[str]]:
    """Those that the workspace declares; where it is not in order, why."""
    if root is None or not (root / "workspace.toml").exists():
        return {}, []
    try:
        return manifest.read(root).models, []
    except PtwError as error:
        return {}, [str(error)]


def _add(folder: Path, checkpoint: Checkpoint) -> None:
    """Links, not copies, unless it is small: a checkpoint may be as large as the disk."""
    place = folder / "checkpoint"
    ids = _ids(checkpoint.folder / "tokenizer.json", checkpoint.hf_config)
    files = {checkpoint.folder / "config.json", *checkpoint.files.values()}
    files |= set(checkpoint.folder.glob("*.safetensors.index.json"))
    names = {file.name for file in checkpoint.files.values()}
    small = names == {WHOLE} and (checkpoint.folder / WHOLE).stat().st_size < SMALL_BYTES
    if not small and (closed := [file for file in files if not _open_to_all(file)]):
        said = "only its owner may read it, and a port's process is a stranger: chmod o+r"
        raise PtwError(f"{closed[0]}: {said}")
    place.mkdir(parents=True)
    for file in files:
        if _open_to_all(file):
            (place / file.name).symlink_to(file.resolve())
        else:
            shutil.copyfile(file, place / file.name)
    save_file({"text.ids": ids, "text.exact": torch.tensor(small)}, folder / "inputs.safetensors")


def _open_to_all(file: Path) -> bool:
    """Whether a port's process, which is root nowhere, may read it."""
    return os.geteuid() != 0 or bool(file.stat().st_mode & stat.S_IROTH)


def _ids(file: Path, config: Any) -> torch.Tensor:
    """A text by the checkpoint's own tokenizer; without one its bytes."""
    text, vocabulary = TEXT.read_text(encoding="utf-8"), int(config.get("vocab_size", 256))
    if file.exists():
        from tokenizers import Tokenizer

        ids = [token for token in Tokenizer.from_file(str(file)).encode(text).ids if token < vocabulary]
    else:
        ids = [byte % vocabulary for byte in text.encode()]
    if len(ids) < LEAST_TOKENS:
        raise PtwError(f"{file}: it makes {len(ids)} tokens of a text that should have {LEAST_TOKENS}")
    most = min(MOST_TOKENS, int(config.get("max_position_embeddings") or MOST_TOKENS))
    return torch.tensor(ids[:most])


def limits(least: sandbox.Limits, weights: Sequence[Path]) -> sandbox.Limits:
    """Room and time for these real weights beside those that a port of a small model gets."""
    held = sum(file.stat().st_size for file in weights)
    memory, seconds = least.memory_bytes + COPIES * held, least.seconds + held // BYTES_A_SECOND
    return replace(least, memory_bytes=memory, seconds=seconds)
