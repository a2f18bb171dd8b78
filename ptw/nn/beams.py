"""Which sequences are likeliest to follow, of those that are allowed? All beams of all prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ptw.nn.cache import KVCache
from ptw.nn.head import CHUNK_ELEMENTS
from ptw.nn.layout import Layout

TOKENS_AT_ONCE = 2**17  # that are held of beams, each with its prompt: of 1,280 beams 102

# (node of each beam, of depth d) -> for each child that is allowed: whose it is, its node, its token
Children = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@torch.no_grad()
def search(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    width: int,
    steps: int,
    children: Children,
    in_parts: bool = True,
) -> tuple[Tensor, Tensor]:
    """(B, W) nodes that the likeliest sequences of `steps` tokens end at, and (B, W) their log-probabilities.

    `children(depth, prompt_M, node_M)` says what may follow M beams; there is at least one child of each.
    Probabilities are those of all tokens: were they those of the allowed ones alone, what is left of a code
    whose likely items are not allowed would get all that these have. Where there are fewer sequences than W
    the rest has node -1 and probability 0. The likeliest comes first.
    """
    assert all(prompts), "every prompt needs a token"
    device = next(model.parameters()).device
    states = _States(model, prompts, steps, len(prompts) * width, in_parts)
    prompt_M = torch.arange(len(prompts), device=device)
    nodes_M, scores_M = torch.zeros_like(prompt_M), torch.zeros(len(prompts), device=device)
    parents_M, said_MC = prompt_M, prompt_M.new_empty(len(prompts), 0)
    for depth in range(steps):
        logits_MV = states.logits(prompt_M, parents_M, said_MC)
        owner_C, child_C, token_C = children(depth, prompt_M, nodes_M)
        logits_C = logits_MV[owner_C, token_C].float()
        scores_C = (scores_M - _log_sums(logits_MV))[owner_C] + logits_C
        scores_C = scores_C.masked_fill(scores_C.isnan(), -torch.inf)
        chosen = _best(scores_C, prompt_M[owner_C], width)
        nodes_M, scores_M, parents_M = child_C[chosen], scores_C[chosen], owner_C[chosen]
        prompt_M = prompt_M[parents_M]
        said_MC = torch.cat([said_MC[parents_M], token_C[chosen, None]], dim=1)
    nodes_M = torch.where(scores_M > -torch.inf, nodes_M, -1)
    return _table(nodes_M, prompt_M, len(prompts), width, -1), _table(
        scores_M, prompt_M, len(prompts), width, -torch.inf
    )


class _States:
    """What the model holds: of each beam, with a cache, so that only its newest token goes through it.

    Where that does not fit, of each prompt alone: then beams go through it some at a time, each with all that
    it said, which is little, and nothing is kept of them.
    """

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], steps: int, beams: int, in_parts: bool
    ) -> None:
        self._model, self._device = model, next(model.parameters()).device
        self._prompts = [list(prompt) for prompt in prompts]
        fitting = max(1, TOKENS_AT_ONCE // (max(map(len, prompts)) + steps))
        self._at_once = min(fitting, beams) if in_parts else beams
        self._fits = self._at_once == beams
        self._cache = None
        if getattr(model, "has_cache", True):
            self._cache = KVCache(model.config.num_hidden_layers, growth=steps - 1)

    def logits(self, prompt_M: Tensor, parents_M: Tensor, said_MC: Tensor) -> Tensor:
        """(M, V) of the last token of each beam: of its prompt, and of what it said since.

        parents_M: which beam of the step before each goes on from.
        """
        if self._cache is None:
            pairs = zip(prompt_M.tolist(), said_MC.tolist(), strict=True)
            whole = [[*self._prompts[prompt], *said] for prompt, said in pairs]
            starts = range(0, len(whole), self._at_once)
            return torch.cat([self._ends(whole[at : at + self._at_once], None) for at in starts])
        if not said_MC.shape[1]:
            return self._ends(self._prompts, self._cache)
        if self._fits:
            self._cache.pick(parents_M)
            return self._ends(said_MC[:, -1:].tolist(), self._cache)
        beams = zip(prompt_M.split(self._at_once), said_MC.split(self._at_once), strict=True)
        return torch.cat([self._ends(said.tolist(), self._cache.picked(rows)) for rows, said in beams])

    def _ends(self, fresh: list[list[int]], cache: KVCache | None) -> Tensor:
        """(B, V) of the last of each row's new tokens."""
        counts = [len(tokens) for tokens in fresh]
        width = max(counts)
        padded = [[*tokens, *[0] * (width - len(tokens))] for tokens in fresh]
        ids_BT = torch.tensor(padded, device=self._device)
        if cache is None:
            layout = Layout.of_documents([[count] for count in counts], device=self._device)
            hidden_BTD = self._model(ids_BT, layout)
        else:
            hidden_BTD = self._model(ids_BT, cache.step(counts, self._device), cache)
        ends = torch.tensor(counts, device=self._device) - 1
        logits_BV: Tensor = self._model.head().logits(hidden_BTD[torch.arange(len(counts)), ends])
        return logits_BV


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
