"""A field of the configuration moves the port's output as it moves the reference's, or is refused by name.

Each field has a case of its own, which changes nothing else. What a port refuses by name is in the report,
and fails nothing.
"""

from typing import Any

import torch
from torch import Tensor

LIMITS = {"relative": 1e-10}  # honest ports measure 1e-14


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """logits: (T, V), each document alone."""
    if "changed" in inputs:  # a case of more than one field
        return {}
    model = subject.exact()
    documents = inputs["ids"].split(inputs["lengths"].tolist())
    return {"logits": torch.cat([model.logits(document) for document in documents])}


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "logits" not in theirs:
        return {}
    difference_TV = ours["logits"] - theirs["logits"]
    return {"relative": (difference_TV.norm(dim=-1) / theirs["logits"].norm(dim=-1)).max().item()}
