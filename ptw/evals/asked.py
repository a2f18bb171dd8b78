"""What does a model that was taught classes or numbers in place of words say of one prompt?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptw.data.labelled import input_ids
from ptw.data.pack import lay_out
from ptw.data.sample import Sample
from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.evals.classes import Classes
from ptw.evals.evaluate import device_of, tokenizer_of, window_of
from ptw.evals.rows import forward_of, last
from ptw.runs.open import Opened
from ptw.workspace.manifest import Workspace


@dataclass(frozen=True)
class Said:
    """Of a label its probability, or a number."""

    name: str
    value: float


KEYS = {"multi_label_classification": ("label", "probability"), "regression": ("name", "number")}


def as_json(classes: Classes, found: Sequence[Said]) -> list[dict[str, str | float]]:
    name, value = KEYS[classes.problem]
    return [{name: one.name, value: one.value} for one in found]


def said(workspace: Workspace, opened: Opened, classes: Classes, prompt: str | None, top: int) -> list[Said]:
    """The likeliest labels first; numbers in their order."""
    scores_L = scores_of(workspace, opened, prompt)
    if classes.problem == "regression":
        return [Said(name, value) for name, value in zip(classes.names, scores_L.tolist(), strict=True)]
    best = scores_L.sigmoid().topk(min(top, len(scores_L)))
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [Said(classes.names[at], value) for at, value in found]


@torch.no_grad()
def scores_of(workspace: Workspace, opened: Opened, prompt: str | None) -> Tensor:
    """(L,) of each class, or number; PtwError for a prompt that is missing or too long."""
    if prompt is None:
        raise PtwError(
            f"{opened.name} was taught on texts, not on histories: ask it by ptw recommend NAME --prompt TEXT"
        )
    ids = _prompt_ids(workspace, opened, prompt)
    if len(ids) > window_of(opened):
        raise PtwError(f"the prompt has {len(ids):,} tokens, and {opened.name} reads {window_of(opened):,}")
    sample = Sample("prompt", np.array(ids, np.int32), np.zeros(len(ids), bool))
    forward = forward_of([lay_out([sample], len(ids), 0)], device_of(opened))
    module = opened.loaded.module
    hidden_1D = last(module(forward.ids_BT, forward.layout), forward, tokenizer_of(opened).pad_id)
    scores_1L: Tensor = module.head().wide_logits(hidden_1D)  # type: ignore[operator]
    return scores_1L[0].double().cpu()


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
