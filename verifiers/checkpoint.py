"""On a real checkpoint and a real text the port is as good as the reference, in the checkpoint's own dtype.

Small checkpoints are held to fp64; of large ones the reference's own disagreement with itself, computed by
another attention, says how much two right implementations differ.
"""

from typing import Any

import torch
from torch import Tensor

CASES = "checkpoint"
LEVELS = ("acceptance",)
LIMITS = {
    "relative": 1e-10,  # in exact arithmetic, the worst position
    "error": 1.25,  # against fp64, over the reference's own, of a checkpoint in 16 bits
    "error_wide": 4.0,  # the same of one in fp32, where the order of sums is what differs
    "divergence": 2.0,  # mean KL of the next token from the reference's, over that of its other attention
}
ROWS = 64  # positions at a time: a vocabulary may be large
NOISE = 1e-12  # of a mean KL: below it two distributions are one


def applies(metric: str, theirs: dict[str, Tensor]) -> bool:
    """Either against fp64, or against the reference's other attention."""
    if "exact" not in theirs:
        return metric == "divergence"
    return metric in ("relative", _error(theirs))


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """logits (T, V) in the own dtype; exact (T, V) where fp64 fits; other (T, V): of the reference only."""
    if "text.ids" not in inputs:
        return {}
    ids = inputs["text.ids"]
    found = {"logits": subject.at(subject.dtype).logits(ids).float()}
    found["bits"] = torch.tensor(subject.dtype.itemsize * 8)
    if inputs["text.exact"]:
        found["exact"] = subject.exact().logits(ids)
    elif subject.is_reference:
        found["other"] = subject.otherwise(ids).float()
    return found


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "logits" not in theirs:
        return {}
    if "exact" in theirs:
        exact_TV = theirs["exact"]
        difference_TV = ours["exact"] - exact_TV
        errors = [(said["logits"].double() - exact_TV).norm().item() for said in (ours, theirs)]
        return {
            "relative": (difference_TV.norm(dim=-1) / exact_TV.norm(dim=-1)).max().item(),
            _error(theirs): errors[0] / errors[1],
        }
    own, other = _divergence(theirs["logits"], ours["logits"]), _divergence(theirs["logits"], theirs["other"])
    return {"divergence": own / max(other, NOISE)}


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """How far into the text they agree."""
    expected, found = (said.get("exact", said["logits"]).double() for said in (theirs, ours))
    relative_T = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    place = int(relative_T.argmax())
    agree = int((theirs["logits"].argmax(-1) == ours["logits"].argmax(-1)).sum())
    return [
        f"of {len(relative_T)} positions of a text they think the same token the likeliest at {agree}; "
        f"the worst is position {place} (relative {relative_T[place]:.2g})"
    ]


def _error(theirs: dict[str, Tensor]) -> str:
    return "error" if theirs["bits"] == 16 else "error_wide"


def _divergence(expected_TV: Tensor, found_TV: Tensor) -> float:
    """The mean over positions of KL(expected || found)."""
    total = 0.0
    for expected, found in zip(expected_TV.split(ROWS), found_TV.split(ROWS), strict=True):
        logs = expected.double().log_softmax(-1), found.double().log_softmax(-1)
        total += torch.sum(logs[0].exp() * (logs[0] - logs[1])).item()
    return total / len(expected_TV)
