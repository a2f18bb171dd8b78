"""What are the figures of a run's model, or of a workspace's model, on held-out data?"""

import math
from typing import cast

import torch

from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.evals.loss import summed_loss
from ptw.evals.ranking import cases, metrics_of, model_ranks, popularity_ranks, split_of
from ptw.evals.retrieval import Pooling, measured
from ptw.runs.open import Opened, demand_words
from ptw.workspace.manifest import DatasetEntry, Workspace
from ptw.workspace.problem import hint_of

WINDOW = 1024  # for a model that no recipe gives one


def evaluate(workspace: Workspace, opened: Opened, dataset: str | None = None) -> dict[str, float]:
    """Events: the next item's recall and ndcg, popularity's beside them; else the mean loss of a token.

    Of a model that gives vectors: what those of pairs find.
    """
    entry = _dataset(workspace, opened, dataset)
    finds = opened.vectors and all(share.dataset.format == "pair" for share in entry.parts)
    if not finds:
        demand_words(opened)
    if opened.tokenizer is None:
        raise PtwError(
            f"{opened.name}: no tokenizer is known for it; evaluate a run, or add one to its folder"
        )
    positions = opened.loaded.hf_config.get("max_position_embeddings") or WINDOW
    window = opened.window or min(WINDOW, positions)
    device = next(opened.loaded.module.parameters()).device
    if entry.format == "event":
        split_of(entry)  # refuses what was not held out
        held_out = list(cases(workspace.root, entry, opened.tokenizer, "test", window))
        ranks = model_ranks(opened.loaded.module, held_out, opened.tokenizer, window, device)
        popular = popularity_ranks(held_out, workspace.root, entry, opened.tokenizer)
        return {
            **metrics_of(ranks),
            **metrics_of(popular, "popularity_"),
            "sequences": len(held_out),
        }
    if not finds and any(share.dataset.format == "pair" for share in entry.parts):
        raise PtwError(f"{opened.name} gives words, and dataset {entry.name} has pairs: name another dataset")
    stream = Stream(workspace.root, entry, opened.tokenizer, window=window, seed=0, epochs=1, shuffle=False)
    if finds:
        return measured(opened.loaded.module, stream, _pooling(opened), torch.device(device))
    total, tokens = summed_loss(opened.loaded.module, stream, torch.device(device))
    loss = total / max(1, tokens)
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": tokens}


def _pooling(opened: Opened) -> Pooling:
    if opened.pooling is None:
        raise PtwError(
            f"{opened.name}: its vectors are pooled as ptw has it not: neither the mean nor the last"
        )
    return cast(Pooling, opened.pooling)


def _dataset(workspace: Workspace, opened: Opened, dataset: str | None) -> DatasetEntry:
    name = dataset or opened.dataset
    if name is None:
        raise PtwError(f"{opened.name} is a model, not a run: name the data with --dataset")
    if name not in workspace.datasets:
        hint = hint_of(name, list(workspace.datasets), "datasets")
        raise PtwError(f"workspace.toml: no dataset named {name!r}; {hint}")
    return workspace.datasets[name]
