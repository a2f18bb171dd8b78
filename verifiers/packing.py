"""Documents that are packed together give what each gives alone, and none of them sees another."""

from typing import Any

import torch
from torch import Tensor

LIMITS = {
    "relative": 1e-10,  # the reference runs each document alone: its packed forward leaks in many families
    "leak": 0.0,  # tokens whose logits change by one bit when another document does
}
PACKED, CHANGED = "packed.", "changed."


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """packed.WAY: (T, V); changed.WAY: the same with one document's tokens replaced; alone: the oracle."""
    if "changed" not in inputs:
        return {}
    model = subject.exact()
    if subject.is_reference:
        documents = inputs["ids"].split(inputs["lengths"].tolist())
        return {"alone": torch.cat([model.logits(document) for document in documents])}
    packed, changed = model.packed(inputs["ids"], inputs), model.packed(inputs["changed"], inputs)
    return {f"{PACKED}{way}": logits for way, logits in packed.items()} | {
        f"{CHANGED}{way}": logits for way, logits in changed.items()
    }


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "alone" not in theirs:
        return {}
    alone_TV = theirs["alone"]
    lengths = theirs["given.lengths"]
    documents_T = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    others_T = documents_T != theirs["given.changed_document"]
    relative, leak = [], []
    for name in sorted(name for name in ours if name.startswith(PACKED)):
        difference_TV = ours[name] - alone_TV
        relative.append((difference_TV.norm(dim=-1) / alone_TV.norm(dim=-1)).max().item())
        changed_TV = ours[CHANGED + name.removeprefix(PACKED)]
        leak.append(float((ours[name] != changed_TV).any(dim=-1)[others_T].sum()))
    return {"relative": _worst(relative), "leak": _worst(leak)}


def _worst(values: list[float]) -> float:
    """NaN, which no limit accepts, when one is or when there are none: `max` would pass it over."""
    return max(values) if values and all(value == value for value in values) else float("nan")
