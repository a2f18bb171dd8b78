"""Documents that are packed together give what each gives alone, and none of them sees another."""

from torch import Tensor

LIMITS = {
    "relative": 1e-10,  # the reference runs each document alone: its packed forward leaks in many families
    "leak": 0.0,  # tokens whose logits change by one bit when another document does
}
PACKED, CHANGED = "packed.", "changed."


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """packed.BACKEND.logits, and changed.BACKEND.logits with one document's tokens replaced: (T, V)."""
    others_T = theirs["documents"] != theirs["changed_document"]
    relative, leak = [], []
    for name in sorted(ours):
        if not (name.startswith(PACKED) and name.endswith(".logits")):
            continue
        difference_TV = ours[name] - theirs["logits"]
        relative.append((difference_TV.norm(dim=-1) / theirs["logits"].norm(dim=-1)).max().item())
        changed_TV = ours[CHANGED + name.removeprefix(PACKED)]
        leak.append(float((ours[name] != changed_TV).any(dim=-1)[others_T].sum()))
    return {"relative": _worst(relative), "leak": _worst(leak)}


def _worst(values: list[float]) -> float:
    """NaN, which no limit accepts, when one is or when there are none: `max` would pass it over."""
    return max(values) if values and all(value == value for value in values) else float("nan")
