"""Which tokens may be drawn under top-k and top-p, and how likely is one of them among these?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ptw.nn.head import CHUNK_ELEMENTS, Head


def likeliest(logits: Tensor, top_p: float, top_k: int) -> Tensor:
    """(..., V) bool: of the top_k likeliest (0: all; ties stay), the fewest that make up top_p; never none.

    As vLLM has it: the logits are divided by the temperature before, top-k comes before top-p.
    """
    allowed = torch.ones_like(logits, dtype=torch.bool)
    if 0 < top_k < logits.shape[-1]:
        allowed = logits >= logits.topk(top_k, sorted=False).values.amin(-1, keepdim=True)
    if top_p < 1:
        within, order = logits.masked_fill(~allowed, -torch.inf).softmax(-1).sort(-1, descending=True)
        likelier = within.cumsum(-1) - within
        allowed &= torch.zeros_like(allowed).scatter(-1, order, likelier < top_p)
    return allowed


@dataclass(frozen=True)
class Drawable:
    """Of each of M tokens the ids that it was drawn from, one after the other: (K,) ids, (M,) how many."""

    ids_K: Tensor
    counts_M: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Drawable]) -> Drawable:
        none = torch.empty(0, dtype=torch.int64)
        return cls(
            torch.cat([none, *(part.ids_K for part in parts)]),
            torch.cat([none, *(part.counts_M for part in parts)]),
        )

    def split(self, tokens: Sequence[int]) -> list[Drawable]:
        """Of so many tokens each."""
        counts = self.counts_M.split(list(tokens))
        ids = self.ids_K.split([int(count.sum()) for count in counts])
        return [Drawable(one, count) for one, count in zip(ids, counts, strict=True)]

    def mask(self, vocabulary: int, device: torch.device) -> Tensor:
        """(M, V) bool."""
        rows_K = torch.arange(len(self.counts_M)).repeat_interleave(self.counts_M)
        found_MV = torch.zeros(len(self.counts_M), vocabulary, dtype=torch.bool, device=device)
        found_MV[rows_K.to(device), self.ids_K.to(device)] = True
        return found_MV


@torch.no_grad()
def drawable(
    head: Head, hidden_MD: Tensor, targets_M: Tensor, temperature: float, top_p: float, top_k: int
) -> Drawable | None:
    """What each target could be drawn from, on the CPU; None: any token.

    The target is always of it: whoever drew it in other rounding may have set its edge elsewhere.
    """
    if (top_p, top_k) == (1, 0):
        return None
    found = []
    for hidden, targets in _chunks(head, hidden_MD, targets_M):
        allowed_mV = likeliest(_heated(head, hidden, temperature), top_p, top_k)
        allowed_mV[torch.arange(len(targets), device=targets.device), targets] = True
        rows_K, ids_K = allowed_mV.nonzero(as_tuple=True)
        found.append(Drawable(ids_K.cpu(), rows_K.bincount(minlength=len(targets)).cpu()))
    return Drawable.joined(found)


def log_probs_among(
    head: Head, hidden_MD: Tensor, targets_M: Tensor, temperature: float, among: Drawable | None
) -> Tensor:
    """(M,) log-probabilities of the targets by the softmax of logits / temperature over `among` (None: all).

    In fp32 at least, in chunks that the backward pass computes again.
    """
    chunks = list(_chunks(head, hidden_MD, targets_M))
    none = [None] * len(chunks)
    parts = none if among is None else among.split([len(targets) for _, targets in chunks])
    found = [
        checkpoint(_among, head, hidden, targets, temperature, part, use_reentrant=False)
        for (hidden, targets), part in zip(chunks, parts, strict=True)
    ]
    return torch.cat(found)


def _among(head: Head, hidden: Tensor, targets: Tensor, temperature: float, among: Drawable | None) -> Tensor:
    logits = within = _heated(head, hidden, temperature)
    if among is not None:
        within = logits.masked_fill(~among.mask(logits.shape[-1], logits.device), -torch.inf)
    return logits.gather(-1, targets[:, None]).squeeze(-1) - within.logsumexp(-1)


def _heated(head: Head, hidden: Tensor, temperature: float) -> Tensor:
    logits = head.logits(hidden)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


def _chunks(head: Head, hidden_MD: Tensor, targets_M: Tensor) -> zip[tuple[Tensor, Tensor]]:
    rows = max(1, CHUNK_ELEMENTS // head.vocabulary)
    return zip(hidden_MD.split(rows), targets_M.split(rows), strict=True)
