"""Learning and decoding are no slower than the reference's own, each in its fastest way, one after the other.

On a CPU the processor's time is compared, which what else runs there disturbs least. The limit there only
keeps out what is clearly slower; on a GPU a port that is slower than the reference is of no use.
"""

from typing import Any

from torch import Tensor

ALONE = True
CASES = "speed"
LEVELS = ("acceptance",)
# of the port over the reference
LIMITS = {
    # seconds of forward, loss and backward on packed documents of skewed lengths: honest ports 0.7 to 1.0
    "step_cpu": 1.5,
    "decode_cpu": 2.0,  # seconds of a prefill and steps through the cache: honest ports take 0.7 to 1.5
    "memory_cpu": 1.5,  # bytes that forward keeps for backward
    "step_cuda": 1.0,
    "decode_cuda": 1.0,
    "memory_cuda": 1.0,  # the most bytes at any time of a step
    # relative: what was timed was the work, also where bf16 or a close choice of experts rounds otherwise
    "loss": 1e-3,
    "logits": 0.1,
}
SAID = ("loss", "logits")


def applies(metric: str, theirs: dict[str, Tensor]) -> bool:
    """Whether a metric is of the device that this was measured on."""
    return metric in theirs


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """step_DEVICE, decode_DEVICE: (rounds,) seconds; memory_DEVICE: bytes; loss; logits (P, V) at the end."""
    found: dict[str, Tensor] = subject.timed(inputs)
    return found


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    found = {
        metric: _ratio(ours[metric], theirs[metric])
        for metric in LIMITS
        if metric in theirs and metric not in SAID
    }
    return found | {
        name: ((ours[name] - theirs[name]).norm() / theirs[name].norm()).item()
        for name in SAID
        if name in theirs
    }


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """The seconds themselves."""
    said = []
    for metric in LIMITS:
        if metric in theirs and metric not in SAID and not measure(ours, theirs)[metric] <= LIMITS[metric]:
            pair = (ours[metric].min().item(), theirs[metric].min().item())
            said.append(f"{metric}: {pair[0]:.4g} of the port, {pair[1]:.4g} of the reference")
    return said


def _ratio(ours: Tensor, theirs: Tensor) -> float:
    """Of the quickest rounds: whatever else happens on a machine only makes one slower."""
    return (ours.min() / theirs.min()).item()
