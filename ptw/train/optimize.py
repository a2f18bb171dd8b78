"""Which parameters are decayed, how long may a gradient be, and what is the learning rate of a step?"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ptw.ports.parallel import reshard, whole

ScheduleName = Literal["constant", "linear", "cosine"]
FLOOR = 0.1  # of the peak, where a cosine ends


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a pure function of the step: nothing to save, nothing to drift on resume."""

    peak: float
    name: ScheduleName
    warmup: int  # steps

    def at(self, step: int, total: int | None) -> float:
        """The rate of the step that follows `step` finished ones, of `total`."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if self.name == "constant" or total is None:
            return self.peak
        done = min(1.0, (step - self.warmup) / max(1, total - self.warmup))
        if self.name == "linear":
            return self.peak * (1 - done)
        return self.peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


def adamw(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; only matrices are decayed, never norms or biases.

    One pass over each parameter where all lie on one mesh, or none; torch cannot take several at once.
    """
    reshard(module)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    meshes = {getattr(parameter, "device_mesh", None) for parameter in trained.values()}
    matrices = {name for name, p in trained.items() if p.ndim >= 2 and not name.endswith("bias")}
    groups = [
        {"params": [p for name, p in trained.items() if name in matrices], "weight_decay": weight_decay},
        {"params": [p for name, p in trained.items() if name not in matrices], "weight_decay": 0.0},
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, lr=learning_rate, betas=(0.9, 0.95), fused=len(meshes) == 1)


def clip(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Shorten all gradients, taken as one, to a norm of at most `most` (0: never); how long they were before.

    All workers call it together. Gradients may lie on several meshes, each of all workers.
    """
    by_mesh: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_mesh.setdefault(getattr(parameter.grad, "device_mesh", None), []).append(parameter)
    norms = [
        whole(nn.utils.get_total_norm([p.grad for p in learnt if p.grad is not None]))
        for learnt in by_mesh.values()
    ]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for learnt in by_mesh.values() if most else ():
        nn.utils.clip_grads_with_norm_(learnt, most, norm)
    return norm.item()
