"""What may a recipe choose that labels rows, with a model of its own or behind an endpoint?"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ptw.errors import PtwError
from ptw.train import demand

OF_A_MODEL = ("rows_at_once", "window", "precision")
OF_AN_ENDPOINT = ("concurrency", "timeout_seconds", "tries", "budget_usd")


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """What `Labelling` itself reads. Nothing is learnt: there are no steps, and there is no optimizer."""

    rows_at_once: int = 16  # of a model: rows of a batch
    window: int = 2048  # of a model: tokens of a prompt with its answer, or of a chat that is scored
    precision: Literal["fp32", "bf16"] = "fp32"
    concurrency: int = 8  # of an endpoint: requests under way, of each worker
    timeout_seconds: float = 300.0  # of an endpoint: that one request may take
    tries: int = 6  # of an endpoint: before it counts as gone
    budget_usd: float | None = None  # of an endpoint: what the whole run may cost; needs its prices
    seed: int = 0

    def demand_sense(self) -> None:
        """PtwError names a setting whose value can't be."""
        demand.positive(rows_at_once=self.rows_at_once, concurrency=self.concurrency, tries=self.tries)
        demand.above_zero(timeout_seconds=self.timeout_seconds)
        demand.above_zero(budget_usd=1.0 if self.budget_usd is None else self.budget_usd)
        if self.window < 2:
            raise PtwError(f"settings: window = {self.window}: it must be 2 or more")

    def demand_unset(self, names: tuple[str, ...], why: str) -> None:
        """PtwError names one of these that is set: a setting without an effect misleads."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in names and value != field.default:
                raise PtwError(f"settings: {field.name} = {value}: it has no effect {why}; remove it")
