"""What does a model of items, labels or numbers say of one prompt?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ptw.data.labelled import input_ids
from ptw.data.pack import lay_out
from ptw.data.sample import Sample
from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.evals.attributes import read_items
from ptw.evals.cases import Catalogue
from ptw.evals.classes import Classes
from ptw.evals.evaluate import device_of, tokenizer_of, window_of
from ptw.evals.next_items import Request, allowed
from ptw.evals.rows import forward_of, last
from ptw.runs.open import Opened
from ptw.workspace.manifest import Workspace


@dataclass(frozen=True)
class Said:
    """Of an item its log-probability among what is allowed, of a label its probability, or a number."""

    name: str
    value: float


KEYS = {
    "single_label_classification": ("item", "log_probability"),
    "multi_label_classification": ("label", "probability"),
    "regression": ("name", "number"),
}


def as_json(classes: Classes, said: list[Said]) -> list[dict[str, str | float]]:
    name, value = KEYS[classes.problem]
    return [{name: one.name, value: one.value} for one in said]


@torch.no_grad()
def asked(workspace: Workspace, opened: Opened, classes: Classes, request: Request) -> list[Said]:
    """The likeliest items or labels first; numbers in their order. PtwError: for what it does not have."""
    if request.prompt is None:
        raise PtwError(
            f"{opened.name} was taught on texts, not on histories: ask it by ptw recommend NAME --prompt TEXT"
        )
    filters = {**request.where, **request.without}
    if filters and classes.problem != "single_label_classification":
        raise PtwError(f"{next(iter(filters))}: only items are filtered, and {opened.name} gives none")
    tokenizer, device = tokenizer_of(opened), device_of(opened)
    ids = _prompt_ids(workspace, opened, request.prompt)
    if len(ids) > window_of(opened):
        raise PtwError(f"the prompt has {len(ids):,} tokens, and {opened.name} reads {window_of(opened):,}")
    sample = Sample("prompt", np.array(ids, np.int32), np.zeros(len(ids), bool))
    forward = forward_of([lay_out([sample], len(ids), 0)], device)
    module = opened.loaded.module
    hidden_1D = last(module(forward.ids_BT, forward.layout), forward, tokenizer.pad_id)
    scores_L = module.head().logits(hidden_1D)[0].double().cpu()  # type: ignore[operator]
    if classes.problem == "regression":
        return [Said(name, value) for name, value in zip(classes.names, scores_L.tolist(), strict=True)]
    if classes.problem == "multi_label_classification":
        found_L = scores_L.sigmoid()
        most = len(found_L)
    else:
        allowed_L = _allowed(workspace, opened, classes, request)
        found_L = scores_L.masked_fill(~allowed_L, -torch.inf).log_softmax(-1)
        most = int(allowed_L.sum())
    best = found_L.topk(min(request.top, most))
    return [
        Said(classes.names[at], value)
        for at, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _allowed(workspace: Workspace, opened: Opened, classes: Classes, request: Request) -> torch.Tensor:
    """(L,) by the attributes that the run's catalogue has of its items."""
    catalogue = Catalogue(classes.names)
    file = opened.plan["settings"].get("catalogue") if opened.plan else None
    filtered = bool(request.where or request.without)
    items = read_items(workspace.root, (file,), catalogue) if file and filtered else None
    return allowed(catalogue, items, request)


def _prompt_ids(workspace: Workspace, opened: Opened, prompt: str) -> list[int]:
    """As the texts, or the chats, that the run learnt from; the first row says which."""
    tokenizer = tokenizer_of(opened)
    prompt = tokenizer.items.spelt(prompt)
    chat = {"messages": [{"role": "user", "content": prompt}]}
    entry = workspace.datasets.get(str(opened.dataset))
    if entry is None:
        return input_ids(chat if tokenizer.hf.chat_template else {"text": prompt}, tokenizer)
    first = next(rows(workspace.root, entry.parts[0].dataset.source))
    return input_ids(chat if "messages" in first.value else {"text": prompt}, tokenizer)
