"""What are the figures of a run's model, or of a workspace's model, on held-out data?"""

import math
from typing import cast

import torch

from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.evals.loss import summed_loss
from ptw.evals.retrieval import Pooling, measured
from ptw.runs.open import Opened, demand_words
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry, Workspace
from ptw.workspace.problem import hint_of

WINDOW = 1024  # for a model that no recipe gives one


def evaluate(workspace: Workspace, opened: Opened, dataset: str | None = None) -> dict[str, float]:
    """The mean loss of a token; of a model that gives vectors what those of pairs find.

    What a model recommends to those of a dataset of events is `ptw.evals.recommend`'s.
    """
    entry = dataset_of(workspace, opened, dataset)
    finds = opened.vectors and all(share.dataset.format == "pair" for share in entry.parts)
    if not finds:
        demand_words(opened)
    tokenizer = tokenizer_of(opened)
    window, device = window_of(opened), device_of(opened)
    if not finds and any(share.dataset.format == "pair" for share in entry.parts):
        raise PtwError(f"{opened.name} gives words, and dataset {entry.name} has pairs: name another dataset")
    stream = Stream(workspace.root, entry, tokenizer, window=window, seed=0, epochs=1, shuffle=False)
    if finds:
        return measured(opened.loaded.module, stream, _pooling(opened), device)
    total, tokens = summed_loss(opened.loaded.module, stream, device)
    loss = total / max(1, tokens)
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": tokens}


def tokenizer_of(opened: Opened) -> Tokenizer:
    if opened.tokenizer is None:
        raise PtwError(
            f"{opened.name}: no tokenizer is known for it; evaluate a run, or add one to its folder"
        )
    return opened.tokenizer


def window_of(opened: Opened) -> int:
    positions = opened.loaded.hf_config.get("max_position_embeddings") or WINDOW
    return opened.window or min(WINDOW, positions)


def device_of(opened: Opened) -> torch.device:
    return next(opened.loaded.module.parameters()).device


def _pooling(opened: Opened) -> Pooling:
    if opened.pooling is None:
        raise PtwError(
            f"{opened.name}: its vectors are pooled as ptw has it not: neither the mean nor the last"
        )
    return cast(Pooling, opened.pooling)


def dataset_of(workspace: Workspace, opened: Opened, dataset: str | None) -> DatasetEntry:
    name = dataset or opened.dataset
    if name is None:
        raise PtwError(f"{opened.name} is a model, not a run: name the data with --dataset")
    if name not in workspace.datasets:
        hint = hint_of(name, list(workspace.datasets), "datasets")
        raise PtwError(f"workspace.toml: no dataset named {name!r}; {hint}")
    return workspace.datasets[name]
