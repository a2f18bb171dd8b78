"""How far has a policy gone from the model that training began with?"""

from __future__ import annotations

from torch import Tensor, nn

from ptw.rl.settings import RolloutSettings
from ptw.train.roles import open_beside
from ptw.train.run import Run


def reference_of(run: Run, model: nn.Module, settings: RolloutSettings) -> nn.Module | None:
    """Beneath an adapter the model itself, else another one beside it; None where `kl` asks for none."""
    if not settings.kl:
        return None
    if settings.adapter == "none":
        return open_beside(run, run.plan.model, "reference")
    return model


def divergence(now_M: Tensor, reference_M: Tensor) -> Tensor:
    """(M,) estimates of KL(now | reference) by tokens that were drawn, never negative (Schulman's k3)."""
    ahead_M = reference_M - now_M
    return ahead_M.exp() - ahead_M - 1
