"""In exact arithmetic the port's logits are the reference's, at every position of every document."""

from typing import Any

import torch
from torch import Tensor

# honest ports measure 1e-14; the smallest mistake seen in 93 wrong ports 2.7e-7
LIMITS = {"relative": 1e-10}


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """logits: (T, V), each document alone. The cases of single fields are the configuration's."""
    if "changed" not in inputs:
        return {}
    model = subject.exact()
    documents = inputs["ids"].split(inputs["lengths"].tolist())
    return {"logits": torch.cat([model.logits(document) for document in documents])}


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "logits" not in theirs:
        return {}
    difference_TV = ours["logits"] - theirs["logits"]
    # the worst position: a mean over the prompt hides one that is broken
    return {"relative": (difference_TV.norm(dim=-1) / theirs["logits"].norm(dim=-1)).max().item()}
