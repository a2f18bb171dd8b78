"""One low-rank adapter in PEFT's format does the same to port and reference, and comes back unharmed."""

from typing import Any

import torch
from torch import Tensor

LIMITS = {
    "layers": 0.0,  # layers of the adapter that are no nn.Linear of the port under the checkpoint's name
    "relative": 1e-10,  # logits with the adapter on, in exact arithmetic
    "gradients": 1e-9,  # of the adapter's matrices, the worst one
    "saved": 0.0,  # its tensors that the port wrote with another bit
    "reopened": 0.0,  # logits that differ by a bit when PEFT puts the port's copy on the reference
}
PLACE, GRADIENT, WAS, SAVED = "place.", "gradient.", "was.", "saved."
NOISE = 1e-6  # of the largest gradient's norm: below it a gradient is compared with that


def applies(metric: str, theirs: dict[str, Tensor]) -> bool:
    """A family whose blocks have no linear layer takes no adapter."""
    return "logits" in theirs


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """logits (T, V), gradient.KEY of the summed loss; of the port place.LAYER: is it where it belongs?"""
    if "gradient.ids" not in inputs or not subject.adapter.is_dir():
        return {}
    adapted = subject.adapted()
    if not subject.is_reference:
        adapted.save(subject.handed / "adapter")
    lengths = inputs["gradient.lengths"].tolist()
    found: dict[str, Tensor] = adapted.answers(inputs["gradient.ids"], lengths, inputs["gradient.targets"])
    return found


def reopen(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """was.* by the adapter that was given, saved.* by the port's copy: pair.KEY, and logits (T, V)."""
    if not (subject.handed / "adapter").is_dir():
        return {}
    ids = inputs["ids"][: int(inputs["lengths"][0])]
    found: dict[str, Tensor] = subject.adapted().plainly(ids, subject.handed / "adapter")
    return found


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "logits" not in theirs:
        return {}
    found = {"layers": float(len(_misplaced(ours, theirs)))}
    if "logits" in ours:
        difference_TV = ours["logits"] - theirs["logits"]
        found["relative"] = (difference_TV.norm(dim=-1) / theirs["logits"].norm(dim=-1)).max().item()
        found["gradients"] = _worst(_errors(ours, theirs))
    if f"{SAVED}logits" in theirs:
        found["saved"] = float(len(_changed(theirs)))
        found["reopened"] = float((theirs[f"{SAVED}logits"] != theirs[f"{WAS}logits"]).sum())
    return dict.fromkeys(LIMITS, float("nan")) | found


def _worst(errors: dict[str, float]) -> float:
    """NaN where one is, or where there are none."""
    return torch.tensor([*errors.values()], dtype=torch.float64).max().item() if errors else float("nan")


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """The layers that an adapter does not find, or that it does not reach."""
    said = [f"{name} is no nn.Linear of the port under that name" for name in _misplaced(ours, theirs)]
    errors = _errors(ours, theirs) if "logits" in ours else {}
    # a layer that is passed by learns nothing, and then all that it feeds learns something else
    idle = [key for key in errors if key not in ours or not ours[key].any()]
    said += [f"{_short(key)} has no gradient: the port computes past this layer" for key in idle]
    worst = sorted(errors, key=lambda key: -errors[key])
    said += [
        f"the gradient of {_short(key)} is another than the reference's (relative {errors[key]:.2g})"
        for key in worst
        if key not in idle and not errors[key] <= LIMITS["gradients"]
    ]
    said += [f"{_short(key)} was written with other bits than were read" for key in _changed(theirs)]
    return said


def _misplaced(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Every layer that the reference has an adapter on, and the port has not or under another name."""
    layers = {_short(key).rpartition(".lora_")[0] for key in theirs if key.startswith(GRADIENT)}
    return sorted(name for name in layers if not bool(ours.get(PLACE + name, False)))


def _errors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    keys = [key for key in theirs if key.startswith(GRADIENT)]
    floor = NOISE * max(theirs[key].norm().item() for key in keys)
    return {
        key: float("inf")
        if key not in ours
        else (ours[key] - theirs[key]).norm().item() / max(theirs[key].norm().item(), floor)
        for key in keys
    }


def _changed(theirs: dict[str, Tensor]) -> list[str]:
    had = [key.removeprefix(WAS) for key in theirs if key.startswith(f"{WAS}pair.")]
    has = [key.removeprefix(SAVED) for key in theirs if key.startswith(f"{SAVED}pair.")]
    both = set(had) & set(has)
    same = {key for key in both if torch.equal(theirs[WAS + key], theirs[SAVED + key])}
    return sorted((set(had) | set(has)) - same)


def _short(key: str) -> str:
    """model.layers.0.self_attn.q_proj.lora_A.weight of the names that PEFT writes."""
    return key.partition("base_model.model.")[2]
