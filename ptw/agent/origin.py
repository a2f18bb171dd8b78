"""What does a user mean by a source: a checkpoint on the Hub or in a folder, or an architecture?"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.ports.source import resolve
from ptw.workspace.places import HUB_ID
from ptw.workspace.problem import hint_of


@dataclass(frozen=True)
class Origin:
    """`table` is what stands in workspace.toml for it; `folder` is the checkpoint's, where it has one."""

    model_type: str
    table: Mapping[str, Any]
    folder: Path | None = None

    @property
    def checkpoint(self) -> Mapping[str, Any]:
        """The table for a workspace elsewhere."""
        return {"hf": str(self.folder.resolve())} if self.folder is not None else {}


def find(source: str, revision: str | None, root: Path) -> Origin:
    """PtwError for what is none of the three, and for a family that transformers has no causal model of."""
    known = architectures()
    folder = root / source
    if folder.is_dir():
        return _of_checkpoint(folder, {"hf": source}, known)
    if source in known and revision is not None:
        raise PtwError(f"--revision {revision!r}: {source} is an architecture and has none; leave it out")
    if source in known:
        return Origin(source, {"config": {"model_type": source}})
    if not HUB_ID.fullmatch(source) or "/" not in source:
        hint = hint_of(source, list(known), "architectures")
        raise PtwError(f"--hf {source!r}: no folder, no architecture of transformers and no Hub id; {hint}")
    commit = revision or _newest(source)
    return _of_checkpoint(resolve(source, commit, root), {"hf": source, "revision": commit}, known)


def architectures() -> tuple[str, ...]:
    """The model types of causal language models."""
    # what it thinks of configurations that are made only to be looked at is nobody's concern
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _of_checkpoint(folder: Path, table: Mapping[str, Any], known: tuple[str, ...]) -> Origin:
    file = folder / "config.json"
    try:
        model_type = json.loads(file.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PtwError(f"{file}: model_type can't be read: {error!r}") from error
    if model_type not in known:
        raise PtwError(
            f"{file}: transformers has no causal language model of model_type {model_type!r}: "
            f"{hint_of(str(model_type), list(known), 'architectures')}"
        )
    return Origin(str(model_type), table, folder)


def _newest(source: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        return str(HfApi().model_info(source).sha)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PtwError(
            f"--hf {source!r}: its newest commit can't be asked for: {reason} "
            "(is the id right, is the Hub reachable, is HF_TOKEN set for a gated model? --revision names one)"
        ) from error
