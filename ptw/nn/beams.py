"""Which sequences are likeliest to follow, of those that are allowed? All beams of all prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ptw.nn.cache import KVCache
from ptw.nn.head import CHUNK_ELEMENTS
from ptw.nn.layout import Layout

# (node of each beam, of depth d) -> for each child that is allowed: whose it is, its node, its token
Children = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@torch.no_grad()
def search(
    model: nn.Module, prompts: Sequence[Sequence[int]], width: int, steps: int, children: Children
) -> tuple[Tensor, Tensor]:
    """(B, W) nodes that the likeliest sequences of `steps` tokens end at, and (B, W) their log-probabilities.

    `children(depth, prompt_M, node_M)` says what may follow M beams; there is at least one child of each.
    Probabilities are those of all tokens: were they those of the allowed ones alone, what is left of a code
    whose likely items are not allowed would get all that these have. Where there are fewer sequences than W
    the rest has node -1 and probability 0. The likeliest comes first.
    """
    assert all(prompts), "every prompt needs a token"
    device = next(model.parameters()).device
    states = _States(model, prompts, steps)
    prompt_M = torch.arange(len(prompts), device=device)
    nodes_M = torch.zeros_like(prompt_M)
    scores_M = torch.zeros(len(prompts), device=device)
    for depth in range(steps):
        logits_MV = states.logits()
        owner_C, child_C, token_C = children(depth, prompt_M, nodes_M)
        logits_C = logits_MV[owner_C, token_C].float()
        scores_C = (scores_M - _log_sums(logits_MV))[owner_C] + logits_C
        scores_C = scores_C.masked_fill(scores_C.isnan(), -torch.inf)
        chosen = _best(scores_C, prompt_M[owner_C], width)
        nodes_M, scores_M, parents_M = child_C[chosen], scores_C[chosen], owner_C[chosen]
        prompt_M = prompt_M[parents_M]
        if depth + 1 < steps:
            states.go_on(parents_M, token_C[chosen])
    nodes_M = torch.where(scores_M > -torch.inf, nodes_M, -1)
    return _table(nodes_M, prompt_M, len(prompts), width, -1), _table(
        scores_M, prompt_M, len(prompts), width, -torch.inf
    )


class _States:
    """What the model holds of each beam; with a cache only new tokens go through it."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], steps: int) -> None:
        self._model, self._device = model, next(model.parameters()).device
        self._cache = None
        if getattr(model, "has_cache", True):
            self._cache = KVCache(model.config.num_hidden_layers, growth=steps - 1)
        self._known = [list(prompt) for prompt in prompts]
        self._fresh = self._known

    def logits(self) -> Tensor:
        """(M, V) of the last token of each beam."""
        counts = [len(tokens) for tokens in self._fresh]
        width = max(counts)
        padded = [[*tokens, *[0] * (width - len(tokens))] for tokens in self._fresh]
        ids_MT = torch.tensor(padded, device=self._device)
        if self._cache is None:
            layout = Layout.of_documents([[count] for count in counts], device=self._device)
            hidden_MTD = self._model(ids_MT, layout)
        else:
            hidden_MTD = self._model(ids_MT, self._cache.step(counts, self._device), self._cache)
        ends = torch.tensor(counts, device=self._device) - 1
        logits_MV: Tensor = self._model.head().logits(hidden_MTD[torch.arange(len(counts)), ends])
        return logits_MV

    def go_on(self, parents_M: Tensor, tokens_M: Tensor) -> None:
        new = [[token] for token in tokens_M.tolist()]
        if self._cache is None:
            parents = parents_M.tolist()
            self._known = [self._known[at] + token for at, token in zip(parents, new, strict=True)]
            self._fresh = self._known
        else:
            self._cache.pick(parents_M)
            self._fresh = new


def _log_sums(logits_MV: Tensor) -> Tensor:
    """(M,) log of the summed exponentials of each row."""
    rows = max(1, CHUNK_ELEMENTS // logits_MV.shape[1])
    return torch.cat([part_MV.float().logsumexp(-1) for part_MV in logits_MV.split(rows)])


def _best(scores_C: Tensor, prompt_C: Tensor, width: int) -> Tensor:
    """Which of the C stay: of each prompt the best `width`, the best first, prompt by prompt."""
    by_score = scores_C.argsort(descending=True, stable=True)
    order = by_score[prompt_C[by_score].argsort(stable=True)]
    return order[_place(prompt_C[order]) < width]


def _place(sorted_C: Tensor) -> Tensor:
    """(C,) the how manieth of its kind each is; kinds stand together."""
    at_C = torch.arange(len(sorted_C), device=sorted_C.device)
    is_first = torch.ones_like(at_C, dtype=torch.bool)
    is_first[1:] = sorted_C[1:] != sorted_C[:-1]
    return at_C - torch.where(is_first, at_C, 0).cummax(0).values


def _table(values_M: Tensor, prompt_M: Tensor, prompts: int, width: int, rest: float) -> Tensor:
    found_BW = values_M.new_full((prompts, width), rest)
    found_BW[prompt_M, _place(prompt_M)] = values_M
    return found_BW
