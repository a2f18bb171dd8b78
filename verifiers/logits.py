"""In exact arithmetic the port's logits are the reference's, at every position of every document."""

from torch import Tensor

# honest ports measure 1e-14; the smallest mistake seen in 93 wrong ports 2.7e-7
LIMITS = {"relative": 1e-10}


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """logits: (T, V), each document alone."""
    difference_TV = ours["logits"] - theirs["logits"]
    # the worst position: a mean over the prompt hides one that is broken
    return {"relative": (difference_TV.norm(dim=-1) / theirs["logits"].norm(dim=-1)).max().item()}
