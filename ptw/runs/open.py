"""How is a run's model, or a model of workspace.toml, opened for use?"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ptw.errors import PtwError
from ptw.ports.load import Loaded, load
from ptw.ports.scores import problem_of, stored_scores
from ptw.ports.source import resolve
from ptw.runs.record import MODEL, RunRecord, list_runs, model_folder
from ptw.tokens.declared import came_later, extended
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.workspace.manifest import ModelEntry, Workspace
from ptw.workspace.problem import hint_of

SENTENCE_MODULES = "modules.json"  # of sentence-transformers: the folder's model gives vectors
SENTENCE_POOLING = "1_Pooling/config.json"
POOLING = {"mean": "mean", "mean_tokens": "mean", "lasttoken": "last"}  # by its names, old and new
CHATS = {"chat", "preference", "prompt", "rated"}  # formats that a chat template renders
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Opened:
    """A model ready to compute. A run's: `dataset`, `window`, and whether it learnt from `chats`."""

    name: str
    loaded: Loaded
    tokenizer: Tokenizer | None
    dataset: str | None = None
    window: int | None = None
    chats: bool | None = None
    vectors: bool = False
    pooling: str | None = None  # of a model that gives vectors: mean or last
    plan: Mapping[str, Any] | None = None  # of a run: all that it was made from
    later: frozenset[str] = frozenset()  # items that its tokenizer knows, and the model never could learn


def open_named(workspace: Workspace, name: str) -> Opened:
    """The model called so, else the run; a recipe's name stands for its newest run that has a model."""
    found = run_named(workspace, name)
    if found is None:
        return _open_model(workspace, workspace.models[name])
    return open_run_folder(workspace, found, model_folder(found), found.name)


def run_named(workspace: Workspace, name: str) -> RunRecord | None:
    """The run that `open_named` opens; None for a model. PtwError where neither is called so."""
    records = list_runs(workspace.root)
    named = [record for record in records if name in (record.name, record.recipe)]
    if name in workspace.models and not named:
        return None
    if not named and name in workspace.recipes:
        raise PtwError(f"recipe {name} has no run yet; `ptw train {name}` makes one")
    if not named:
        hint = hint_of(name, [*workspace.models, *(record.name for record in records)])
        raise PtwError(f"no model and no run named {name!r}; {hint}")
    whole = [record for record in named if (record.folder / MODEL).is_dir()]
    exact = [record for record in named if record.name == name]
    return (exact or whole or named)[-1]


def open_model(workspace: Workspace, name: str) -> tuple[Loaded, Tokenizer | None]:
    """The model and its tokenizer, by the name of a model, run or recipe."""
    opened = open_named(workspace, name)
    return opened.loaded, opened.tokenizer


def demand_words(opened: Opened) -> None:
    """PtwError if the model gives scores or a vector of a text: it has no next token."""
    if opened.vectors:
        raise PtwError(
            f"{opened.name} gives vectors, not words: `ptw eval` measures what they find in a dataset of "
            "pairs, and sentence-transformers loads it with SentenceTransformer"
        )
    if problem_of(opened.loaded.hf_config):
        raise PtwError(
            f"{opened.name} gives items, labels or numbers, not words: `ptw recommend {opened.name} --prompt "
            "TEXT` asks it, `ptw eval` measures it, and transformers loads it with "
            "AutoModelForSequenceClassification"
        )
    if stored_scores(opened.loaded.hf_config):
        raise PtwError(
            f"{opened.name} gives scores, not words: its accuracy stands in its run's record, and "
            "transformers loads it with AutoModelForSequenceClassification"
        )


def run_tokenizer(record: RunRecord, folder: Path) -> Tokenizer:
    """The tokenizer beside a model of the run; PtwError if it is not the one that it was trained with."""
    tokenizer = load_tokenizer(folder)
    if record.fingerprint not in (None, tokenizer.fingerprint):
        raise PtwError(
            f"{folder}: its tokenizer is not the one of the run; restore the folder, or train again "
            f"(`ptw verify {record.name}` shows where they differ)"
        )
    return tokenizer


def open_run_folder(workspace: Workspace, record: RunRecord, folder: Path, name: str) -> Opened:
    """The run's model that lies in this folder, under this name; it knows the items that came since."""
    own = run_tokenizer(record, folder)
    tokenizer = extended(workspace, own)
    window = record.settings.get("window")
    return Opened(
        name=name,
        loaded=_loaded(folder, workspace.root, record.plan["model"]["port"]),
        tokenizer=tokenizer,
        dataset=record.plan["eval_dataset"] or record.plan["dataset"],
        window=window if isinstance(window, int) else None,
        vectors=(folder / SENTENCE_MODULES).is_file(),
        pooling=_pooling(folder),
        chats=not _formats(record.plan["datasets"][record.plan["dataset"]]).isdisjoint(CHATS),
        plan=record.plan,
        later=came_later(tokenizer, own),
    )


def _formats(dataset: dict[str, Any]) -> set[str]:
    """Of a dataset as a plan has it: its own, or those of the parts of a mix."""
    return {share["dataset"]["format"] for share in dataset.get("mix") or [{"dataset": dataset}]}


def _open_model(workspace: Workspace, entry: ModelEntry) -> Opened:
    if entry.endpoint is not None:
        raise PtwError(f"model {entry.name}: {entry.endpoint} serves it, and there are no weights of it here")
    if entry.hf is None:
        raise PtwError(
            f"model {entry.name} is a shape to train from scratch: name a run of a recipe that uses it"
        )
    folder = resolve(entry.hf, entry.revision, workspace.root)
    has_tokenizer = any((folder / name).is_file() for name in TOKENIZER_FILES)
    loaded = _loaded(folder, workspace.root, entry.port)
    tokenizer = load_tokenizer(folder) if has_tokenizer else None
    gives = (folder / SENTENCE_MODULES).is_file()
    return Opened(entry.name, loaded, tokenizer, vectors=gives, pooling=_pooling(folder))


def _pooling(folder: Path) -> str | None:
    """How sentence-transformers makes a vector of the tokens' states; None for ways that ptw has not."""
    file = folder / SENTENCE_POOLING
    try:
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        modes = [values[key] for key in values if key == "pooling_mode"]
        prefix = "pooling_mode_"
        modes += [key.removeprefix(prefix) for key, on in values.items() if key.startswith(prefix) and on]
    except (OSError, ValueError, AttributeError) as error:
        raise PtwError(f"{file}: cannot be read ({error}); fetch the model again") from error
    return POOLING.get(str(modes[0])) if len(modes) == 1 else None


def _loaded(folder: Path, root: Path, port: str | None) -> Loaded:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = load(folder, root, port=port, dtype=torch.float32 if device == "cpu" else None, device=device)
    loaded.module.eval()
    return loaded
