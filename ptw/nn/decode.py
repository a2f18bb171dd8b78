"""How are tokens drawn from a model, one at a time?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ptw.nn.cache import KVCache
from ptw.nn.layout import Layout
from ptw.nn.nucleus import likeliest

# the new tokens of each sequence, and whether it goes on -> (B, V) of its last one
Logits = Callable[[list[list[int]], list[bool]], Tensor]


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    temperature: float = 0.0,
    seed: int | Sequence[int] = 0,
    allowed_ids: Collection[int] | None = None,
    agreed: Callable[[bool], bool] = bool,
    top_p: float = 1.0,
    top_k: int = 0,
    room: Sequence[int] | None = None,
) -> list[list[int]]:
    """New tokens of each prompt, uneven prompts in one batch; a stop token ends a sequence and is kept.

    temperature 0 takes the most likely token, else softmax(logits / temperature) is drawn from, by `seed`;
    with a seed for each prompt, what is drawn for one does not depend on the others beside it. top_p and
    top_k narrow that down, as `likeliest` has it.
    Only ids of the vocabulary (or `allowed_ids`) are ever drawn, never the padded rows of the head. `agreed`:
    whether to go on, of whether any sequence here does: for workers that hold a model between them. `room`:
    how many tokens each prompt has room for, where that may be less than max_new_tokens.
    """
    assert all(prompts), "every prompt needs a token"
    logits_of = _cached(model) if getattr(model, "has_cache", True) else _recomputed(model)
    seeds = [seed] if isinstance(seed, int) else seed
    generators = [torch.Generator().manual_seed(one) for one in seeds]
    assert isinstance(seed, int) or len(seeds) == len(prompts), "one seed, or one for each prompt"
    fresh = [list(prompt) for prompt in prompts]
    drawn: list[list[int]] = [[] for _ in prompts]
    most = [max_new_tokens] * len(prompts) if room is None else room
    going = [limit > 0 for limit in most]
    for _ in range(max_new_tokens):
        logits_BV = _narrowed(_only(logits_of(fresh, going), allowed_ids), temperature, top_p, top_k)
        tokens = _draw(logits_BV, temperature, generators, shared=isinstance(seed, int))
        for sequence, token in enumerate(tokens):
            if going[sequence]:
                drawn[sequence].append(token)
                going[sequence] = token not in stop_ids and len(drawn[sequence]) < most[sequence]
        if not agreed(any(going)):
            break
        fresh = [[token] for token in tokens]
    return drawn


def _cached(model: Any) -> Logits:
    """Each call brings new tokens only; what a sequence is given after its end is forgotten."""
    device = next(model.parameters()).device
    cache: KVCache | None = None

    def logits(fresh: list[list[int]], going: list[bool]) -> Tensor:
        nonlocal cache
        cache = cache or KVCache(model.config.num_hidden_layers)
        counts = [len(tokens) for tokens in fresh]
        hidden_BTD = model(_padded(fresh, device), cache.step(counts, device), cache)
        pairs = zip(cache.lengths, going, strict=True)
        cache.lengths = [length if goes_on else length - 1 for length, goes_on in pairs]
        last = hidden_BTD[torch.arange(len(fresh)), torch.tensor(counts) - 1]
        return model.head().logits(last).float().cpu()

    return logits


def _recomputed(model: Any) -> Logits:
    """The same for a model without a cache: everything again at each step."""
    device = next(model.parameters()).device
    known: list[list[int]] = []

    def logits(fresh: list[list[int]], going: list[bool]) -> Tensor:
        new = [tokens if goes_on or not known else [] for tokens, goes_on in zip(fresh, going, strict=True)]
        known[:] = [[*old, *more] for old, more in zip(known or [[]] * len(new), new, strict=True)]
        counts = [len(tokens) for tokens in known]
        layout = Layout.of_documents([[count] for count in counts], device=device)
        hidden_BTD = model(_padded(known, device), layout)
        last = hidden_BTD[torch.arange(len(known)), torch.tensor(counts) - 1]
        return model.head().logits(last).float().cpu()

    return logits


def _padded(sequences: list[list[int]], device: torch.device) -> Tensor:
    width = max(map(len, sequences))
    return torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in sequences], device=device)


def _only(logits_BV: Tensor, allowed_ids: Collection[int] | None) -> Tensor:
    if allowed_ids is None:
        return logits_BV
    masked = torch.full_like(logits_BV, -torch.inf)
    allowed = torch.tensor(sorted(allowed_ids))
    masked[:, allowed] = logits_BV[:, allowed]
    return masked


def _narrowed(logits_BV: Tensor, temperature: float, top_p: float, top_k: int) -> Tensor:
    if temperature == 0 or (top_p, top_k) == (1, 0):
        return logits_BV
    return logits_BV.masked_fill(~likeliest(logits_BV / temperature, top_p, top_k), -torch.inf)


def _draw(
    logits_BV: Tensor, temperature: float, generators: Sequence[torch.Generator], shared: bool
) -> list[int]:
    if temperature == 0:
        return [int(token) for token in logits_BV.argmax(-1)]
    probabilities_BV = (logits_BV / temperature).softmax(-1)
    if shared:
        return [int(token) for token in torch.multinomial(probabilities_BV, 1, generator=generators[0])[:, 0]]
    # the first token at which the summed probability exceeds a number of the row's own
    sums_BV = probabilities_BV.double().cumsum(-1)
    drawn_B1 = torch.stack([torch.rand(1, dtype=torch.float64, generator=one) for one in generators])
    return torch.searchsorted(sums_BV, drawn_B1 * sums_BV[:, -1:], right=True)[:, 0].tolist()
