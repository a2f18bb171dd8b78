"""Prefill and steps through the cache give the reference's logits, and greedy decoding its tokens.

The reference decodes each document alone through its own cache. That is also what is held to where a RoPE's
frequencies depend on the length (dynamic, longrope): a key stays turned as it was when it was written, and
the length that counts is that of the document, not of the longest in the batch.
"""

from typing import Any

import torch
from torch import Tensor

LIMITS = {
    "relative": 1e-10,
    "tokens": 0.0,  # generated tokens that are not the reference's, ties left out
}
TIE = 1e-9  # the reference's gap between best and second, relative: closer ones either may win


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """logits: (R, steps + 1, V), documents of uneven lengths; tokens: (R, new), and how close each was."""
    found: dict[str, Tensor] = subject.exact().decoded(inputs) if "decode_steps" in inputs else {}
    return found


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "logits" not in theirs:
        return {}
    difference = ours["logits"] - theirs["logits"]
    relative = difference.norm(dim=-1) / theirs["logits"].norm(dim=-1)
    return {"relative": relative.max().item(), "tokens": float(_wrong_tokens(ours, theirs))}


def _wrong_tokens(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> int:
    """After a tie the texts may differ: what follows one says nothing."""
    before_tie = (theirs["gap"] > TIE).long().cumprod(dim=-1).bool()
    return int(torch.sum((ours["tokens"] != theirs["tokens"]) & before_tie))
