"""A checkpoint passes through the port unharmed: all used, none lost or changed; the reference opens it."""

from typing import Any

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
GIVEN, EXPORTED, NUDGED = "given.weights.", "exported.", "nudged."


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """nudged.KEY: (V,), the last token's logits with that tensor changed, for each in turn."""
    if not len(inputs.get("nudged", ())):  # looked at in some cases only
        return {}
    subject.export()
    model = subject.exact()
    found = {}
    for key in subject.weights:
        with model.changed(key, subject.nudged(key)):
            found[NUDGED + key] = model.logits(inputs["nudged"])[-1]
    return found


def reopen(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Both checkpoints opened as any user of transformers would, in their own dtype: (T, V) logits."""
    if not (subject.handed / "export").is_dir():
        return {}
    ids = inputs["ids"][: int(inputs["lengths"][:2].sum())]
    original, _ = subject.reopened(subject.checkpoint)
    exported, problems = subject.reopened(subject.handed / "export")
    with torch.no_grad():
        return {
            "original": original(ids[None], use_cache=False).logits[0],
            "exported": exported(ids[None], use_cache=False).logits[0],
            "problems": torch.tensor(problems),
        }


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """exported.KEY: the tensors of the port's export."""
    nudged = [name for name in theirs if name.startswith(NUDGED)]
    if not nudged:
        return {}
    had = {name.removeprefix(GIVEN): tensor for name, tensor in theirs.items() if name.startswith(GIVEN)}
    has = {name.removeprefix(EXPORTED): ours[name] for name in ours if name.startswith(EXPORTED)}
    found = torch.stack([ours[name] for name in nudged])
    expected = torch.stack([theirs[name] for name in nudged])
    return {
        "missing": float(len(had.keys() - has.keys())),
        "left_over": float(len(has.keys() - had.keys())),
        "changed": float(sum(not _same(has[key], had[key]) for key in had.keys() & has.keys())),
        "nudge": ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item(),
        "export_keys": float(theirs["problems"]),
        "export_logits": float((theirs["exported"] != theirs["original"]).sum()),
    }


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """The keys that are wrong, and those whose change has not the effect that it has on the reference."""
    had = {name.removeprefix(GIVEN) for name in theirs if name.startswith(GIVEN)}
    has = {name.removeprefix(EXPORTED) for name in ours if name.startswith(EXPORTED)}
    said = [f"the export lacks {key}" for key in sorted(had - has)]
    said += [f"the export holds {key}, which the checkpoint does not" for key in sorted(has - had)]
    for key in sorted(had & has):
        if not _same(ours[EXPORTED + key], theirs[GIVEN + key]):
            said.append(f"{key} comes back changed by the round trip")
    for name in sorted(name for name in theirs if name.startswith(NUDGED)):
        error = (ours[name] - theirs[name]).norm() / theirs[name].norm()
        if not error <= LIMITS["nudge"]:
            key = name.removeprefix(NUDGED)
            said.append(f"changing {key} has another effect than in the reference (relative {error:.2g})")
    return said


def _same(first: Tensor, second: Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    # bits, not values: 0.0 == -0.0, and NaN is never equal
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))
