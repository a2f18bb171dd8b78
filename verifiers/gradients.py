"""In exact arithmetic every tensor of the checkpoint gets the reference's gradient of the same loss.

Equal logits say nothing here: a router that is cut off from the loss passes them. The port's gradients come
through its packed forward and its chunked loss, and back through its weight map.
"""

from typing import Any

import torch
from torch import Tensor

LIMITS = {
    "relative": 1e-9,  # the worst tensor
    "loss": 1e-10,  # relative
    "padded": 0.0,  # the largest gradient in rows that pad the vocabulary
}
GRADIENT = "gradient."
NOISE = 1e-6  # of the largest gradient's norm: a smaller gradient is compared with that


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """gradient.KEY, loss and padded (see `subject.Model.gradients`)."""
    if "gradient.ids" not in inputs:
        return {}
    lengths = inputs["gradient.lengths"].tolist()
    found: dict[str, Tensor] = subject.exact().gradients(
        inputs["gradient.ids"], lengths, inputs["gradient.targets"]
    )
    return found


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "loss" not in theirs:
        return {}
    # NaN is larger than all to a tensor's `max`, and to Python's it may be smaller
    errors = torch.tensor(list(_errors(ours, theirs).values()), dtype=torch.float64)
    return {
        "relative": errors.max().item(),
        "loss": ((ours["loss"] - theirs["loss"]).abs() / theirs["loss"].abs()).item(),
        "padded": ours["padded"].item(),
    }


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """The tensors whose gradient is another, those without one first; then the worst."""
    errors = {key: error for key, error in _errors(ours, theirs).items() if not error <= LIMITS["relative"]}
    cut_off = [key for key in errors if GRADIENT + key not in ours or not ours[GRADIENT + key].any()]
    said = [f"{key} gets no gradient: it is cut off from the loss" for key in cut_off]
    said += [
        f"the gradient of {key} is another than the reference's (relative {error:.2g})"
        for key, error in sorted(errors.items(), key=lambda entry: -entry[1])
        if key not in cut_off
    ]
    if not ours["padded"] == 0:  # noqa: SIM201 - NaN, too
        said.append("the loss reaches rows that pad the vocabulary: they must be left out of it")
    if not (ours["loss"] - theirs["loss"]).abs() <= LIMITS["loss"] * theirs["loss"].abs():
        said.append(f"the loss is {ours['loss'].item():.6g}, the reference's {theirs['loss'].item():.6g}")
    return said


def _errors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """By key, relative; infinite where there is none."""
    right = {name: gradient for name, gradient in theirs.items() if name.startswith(GRADIENT)}
    floor = NOISE * max(gradient.norm().item() for gradient in right.values())
    return {
        name.removeprefix(GRADIENT): (ours[name] - gradient).norm().item()
        / max(gradient.norm().item(), floor)
        if name in ours
        else float("inf")
        for name, gradient in right.items()
    }
