"""A checkpoint passes through the port unharmed: all used, none lost or changed; the reference opens it."""

import torch
from torch import Tensor

LIMITS = {
    "missing": 0.0,  # tensors of the checkpoint that the export lacks
    "left_over": 0.0,  # tensors of the export that the checkpoint lacks: a tie that was undone, too
    "changed": 0.0,  # tensors that came back with another bit, shape or dtype
    "nudge": 1e-10,  # relative: what changing one tensor does to the output, worst tensor
    "export_keys": 0.0,  # keys missing or unexpected when plain transformers opens the export
    "export_logits": 0.0,  # logits of the reference that differ by a bit, on the export and on the original
}
WEIGHTS, NUDGED = "weights.", "nudged."


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """weights.KEY: the checkpoint's tensors; nudged.KEY: (V,) with that tensor changed; export.*: (T, V)."""
    had = {name for name in theirs if name.startswith(WEIGHTS)}
    has = {name for name in ours if name.startswith(WEIGHTS)}
    measured = {
        "missing": float(len(had - has)),
        "left_over": float(len(has - had)),
        "changed": float(sum(not _same(ours[name], theirs[name]) for name in had & has)),
        "export_keys": float(ours["export.problems"]),
        "export_logits": float((ours["export.logits"] != theirs["export.logits"]).sum()),
    }
    nudged = [name for name in theirs if name.startswith(NUDGED)]
    if nudged:  # looked at in some cases only
        found = torch.stack([ours[name] for name in nudged])
        expected = torch.stack([theirs[name] for name in nudged])
        measured["nudge"] = ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()
    return measured


def _same(first: Tensor, second: Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    # bits, not values: 0.0 == -0.0, and NaN is never equal
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))
