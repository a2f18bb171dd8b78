"""How does a resumed worker draw the random numbers that it would have drawn?"""

import random
from typing import Any

import torch


def random_state() -> dict[str, Any]:
    """Of this worker's generators; plain enough for torch.load(weights_only=True)."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}


def restore_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
