"""Which vectors does an encoder that is no model of next words give texts?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.ports.port import find_port
from ptw.ports.source import resolve
from ptw.runs.open import SENTENCE_MODULES
from ptw.workspace.manifest import Workspace

CAUSAL = ("ForCausalLM", "LMHeadModel")  # how Hugging Face's names of such classes end
AT_ONCE = 4096  # texts, sorted by length
Say = Callable[[str], None]


def encoder_folder(workspace: Workspace, name: str) -> Path | None:
    """Where such an encoder lies; None for a run, a model with a port, and one of next words."""
    entry = workspace.models.get(name)
    if entry is None or entry.hf is None:
        return None
    folder = resolve(entry.hf, entry.revision, workspace.root)
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        classes = [str(one) for one in config.get("architectures") or ()]
        model_type = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PtwError(f"{file}: no config of a model ({error!r}); fetch it again") from error
    if find_port(workspace.root, entry.port or model_type) is not None:
        return None
    says_words = any(one.endswith(CAUSAL) for one in classes)
    return folder if (folder / SENTENCE_MODULES).is_file() or not says_words else None


def vectors_of(folder: Path, texts: Sequence[str], say: Say) -> Tensor:
    """(N, D) of length 1, as sentence-transformers gives them: a bare encoder's are means over the tokens."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise PtwError(
            f"{folder}: an encoder that is no model of next words needs sentence-transformers ({error}); "
            "pip install 'ptw[encoders]'"
        ) from error
    try:
        encoder = SentenceTransformer(str(folder), local_files_only=True)
    except Exception as error:  # of the folder's files, its tokenizer, and of classes that transformers lacks
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PtwError(f"{folder}: sentence-transformers can't load it: {reason}") from error
    found = []
    for start in range(0, len(texts), AT_ONCE):
        part = list(texts[start : start + AT_ONCE])
        found.append(encoder.encode(part, normalize_embeddings=True, convert_to_tensor=True).float().cpu())
        if start:
            say(f"{start:,} of {len(texts):,} texts encoded")
    return torch.cat(found)
