"""How far apart do trainer and engine hold the same tokens? Beyond rounding one of them is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.train.group import Group

LOOK_AT = (
    "are the engine's weights those of this step (does it load this family by the names that the port "
    "exports), has it the same tokenizer and the same dtype, does the port pass `ptw verify`?"
)


@dataclass
class Gap:
    """Mean exp|difference| of log-probabilities over the tokens of a step: 1 where they are the same.

    Like is compared with like: the trainer's are of the weights that drew, at the temperature, among the
    tokens that top-k and top-p left, as the engine's are.
    """

    most: float
    _total: float = 0.0
    _tokens: int = 0
    _worst: tuple[float, str] = field(default=(0.0, ""))

    def add(self, samples: Sequence[str], trainer: Sequence[Tensor], engine: Sequence[Tensor]) -> None:
        """Of each sample the log-probabilities of its answer."""
        for sample, own, theirs in zip(samples, trainer, engine, strict=True):
            apart = (own.double() - theirs.double()).abs()
            self._total += apart.exp().sum().item()
            self._tokens += len(apart)
            worst = apart.max().item() if len(apart) else 0.0
            self._worst = max(self._worst, (worst, f"{sample}, token {int(apart.argmax())} of its answer"))

    def demand_small(self, group: Group) -> float:
        """The mean over all workers; PtwError where it is beyond what is allowed."""
        total, tokens = group.sum(group.once(self._total), group.once(float(self._tokens)))
        mean = total / max(tokens, 1)
        worst, where = max(group.gathered(self._worst))
        if not mean <= self.most:
            raise PtwError(
                f"settings: most_gap = {self.most:g}: trainer and the engine are {mean:.3f} apart (mean "
                f"exp|difference| of log-probabilities), most at {where} ({worst:.2f}): {LOOK_AT}"
            )
        return mean


def difference(trainer_M: Tensor, engine_M: Tensor, most: float) -> Tensor:
    """(M,) how much likelier the trainer holds each token, at most `most` times.

    Truncated importance sampling (Yao et al., 2025). Both are of the distribution that was drawn from, which
    top-p and top-k have cut and made a whole again. A log-probability over all tokens would be wrong there:
    its mean gradient, over all that may be drawn, is not nought, and so any baseline would move the weights.
    """
    return torch.exp(trainer_M - engine_M).clamp(max=most)
