"""Two processes that hold one model between them, each with other documents, compute what one does.

Sharded by FSDP2 as `ptw train` shards. A tensor-parallel plan of a port's would be held to the same; no port
has one.
"""

from typing import Any

import torch
from torch import Tensor

WORKERS = 2
LIMITS = {
    "relative": 1e-10,  # logits, the worst position of any document
    "gradients": 1e-9,  # summed over the processes' documents, the worst tensor
    "loss": 1e-10,
}
GRADIENT = "gradient."
NOISE = 1e-6  # of the largest gradient's norm: below it a gradient is compared with that


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """logits (T, V), loss, gradient.KEY: of a port's processes together, of the reference alone."""
    if "gradient.ids" not in inputs:
        return {}
    ids, targets = inputs["gradient.ids"], inputs["gradient.targets"]
    lengths = inputs["gradient.lengths"].tolist()
    model = subject.exact()
    if not subject.is_reference:
        sharded: dict[str, Tensor] = model.answers(ids, lengths, targets)
        return sharded
    logits = torch.cat([model.logits(document) for document in ids.split(lengths)])
    found = model.gradients(ids, lengths, targets)
    return {"logits": logits, "loss": found["loss"]} | {
        key: value for key, value in found.items() if key.startswith(GRADIENT)
    }


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "logits" not in theirs:
        return {}
    difference_TV = ours["logits"] - theirs["logits"]
    return {
        "relative": (difference_TV.norm(dim=-1) / theirs["logits"].norm(dim=-1)).max().item(),
        "gradients": _worst(_errors(ours, theirs)),
        "loss": ((ours["loss"] - theirs["loss"]) / theirs["loss"]).abs().item(),
    }


def _worst(errors: dict[str, float]) -> float:
    """NaN where one is, or where there are none."""
    return torch.tensor([*errors.values()], dtype=torch.float64).max().item() if errors else float("nan")


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Which gradients are wrong, worst first, and of which process the documents are."""
    errors = _errors(ours, theirs)
    said = [
        f"the gradient of {key.removeprefix(GRADIENT)}, summed over two processes, is not that of one "
        f"(relative {error:.2g})"
        for key, error in sorted(errors.items(), key=lambda pair: -pair[1])
        if not error <= LIMITS["gradients"]
    ]
    difference_TV = ours["logits"] - theirs["logits"]
    relative_T = difference_TV.norm(dim=-1) / theirs["logits"].norm(dim=-1)
    for place, part in enumerate(relative_T.split(theirs["given.gradient.lengths"].tolist())):
        if not part.max() <= LIMITS["relative"]:
            said.append(f"document {place}, of process {place % WORKERS}: its logits are not those of one")
    return said


def _errors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    keys = [key for key in theirs if key.startswith(GRADIENT)]
    floor = NOISE * max(theirs[key].norm().item() for key in keys)
    return {
        key: float("inf")
        if key not in ours
        else (ours[key] - theirs[key]).norm().item() / max(theirs[key].norm().item(), floor)
        for key in keys
    }
