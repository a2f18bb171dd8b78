"""Which vectors does a model of the workspace give texts?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ptw.data.pack import lay_out
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.evals.retrieval import Pooling, pooled
from ptw.evals.rows import forward_of, groups
from ptw.runs.open import open_named
from ptw.vocab.sentences import encoder_folder, vectors_of
from ptw.workspace.manifest import Workspace

WINDOW = 512  # tokens of a text, at most: of a longer one the first ones
ROWS_AT_ONCE = 16
Say = Callable[[str], None]


@torch.no_grad()
def encoded(workspace: Workspace, name: str, texts: Sequence[str], say: Say) -> Tensor:
    """(N, D) of length 1: the mean over a text's tokens of the last hidden states, or as `embed` taught it.

    name: a model, run or recipe. Texts are sorted by length, and each is a row of its own. An encoder that is
    no model of next words (BERT and its like) says them as sentence-transformers has it.
    """
    if (folder := encoder_folder(workspace, name)) is not None:
        return vectors_of(folder, texts, say)
    opened = open_named(workspace, name)
    if opened.tokenizer is None:
        raise PtwError(
            f"encoder = {name}: no tokenizer is known for it; name a run, or add one to its folder"
        )
    pooling = cast(Pooling, opened.pooling or "mean")
    module, tokenizer = opened.loaded.module, opened.tokenizer
    window = min(WINDOW, opened.loaded.hf_config.get("max_position_embeddings") or WINDOW)
    device = next(module.parameters()).device
    ids = [(tokenizer.encode(text, special=True) or [tokenizer.eos_id or 0])[:window] for text in texts]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    found = []
    for number, together in enumerate(groups(order, ROWS_AT_ONCE)):
        samples = [
            Sample(str(row), np.array(ids[row], np.int32), np.zeros(len(ids[row]), bool)) for row in together
        ]
        width = len(ids[together[-1]])
        forward = forward_of([lay_out([sample], width, tokenizer.pad_id or 0) for sample in samples], device)
        found.append(pooled(module(forward.ids_BT, forward.layout), forward, pooling).float().cpu())
        if number and number % 200 == 0:
            say(f"{number * ROWS_AT_ONCE:,} of {len(texts):,} texts encoded")
    vectors_ND = torch.empty(len(ids), found[0].shape[-1])
    vectors_ND[order] = torch.cat(found)
    return torch.nn.functional.normalize(vectors_ND)
