"""How far is a student's distribution of the next token from its teacher's, in bounded memory?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ptw.nn.head import CHUNK_ELEMENTS, Head


@dataclass(frozen=True)
class Divergence:
    """Of p, the teacher's distribution, and q, the student's, both at a temperature.

    forward: KL(p|q), reverse: KL(q|p), both times the temperature's square, so that its gradient keeps its
    size (Hinton et al., 2015). jsd: beta KL(p|m) + (1 - beta) KL(q|m) with m = beta p + (1 - beta) q (Agarwal
    et al., 2024), times the same.
    """

    kind: Literal["forward", "reverse", "jsd"] = "forward"
    temperature: float = 1.0
    beta: float = 0.5

    def of(self, p: Tensor, q: Tensor) -> Tensor:
        """(M,) of log-probabilities (M, C)."""
        if self.kind == "forward":
            found = _relative(p, q)
        elif self.kind == "reverse":
            found = _relative(q, p)
        else:
            m = torch.logaddexp(p + log(self.beta), q + log(1 - self.beta))
            found = self.beta * _relative(p, m) + (1 - self.beta) * _relative(q, m)
        return found * self.temperature**2


def _relative(p: Tensor, q: Tensor) -> Tensor:
    """(M,) KL(p|q) of log-probabilities."""
    return (p.exp() * (p - q)).sum(-1)


class Teaching(Protocol):
    """What a teacher says of M tokens."""

    def parts(self, size: int) -> Sequence[tuple[Tensor, ...]]:
        """Of each `size` tokens, what `log_probs` takes."""

    def log_probs(
        self, part: tuple[Tensor, ...], student_MV: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """The teacher's log-probabilities, and over the same outcomes those of the student's logits."""


def divergences(
    hidden_MD: Tensor, head: Head, teaching: Teaching, form: Divergence, vocabulary: int
) -> Tensor:
    """(M,) in fp32 at least, of the student's hidden states. Chunk by chunk, computed again for the gradient.

    vocabulary: so many tokens there are; what a table has beyond them is none.
    """
    size = _chunk(vocabulary)

    def chunk(hidden_mD: Tensor, *part: Tensor) -> Tensor:
        student_mV = _logits(head, hidden_mD, vocabulary, form.temperature)
        return form.of(*teaching.log_probs(part, student_mV, form.temperature))

    found = [
        checkpoint(chunk, hidden_mD, *part, use_reentrant=False)
        for hidden_mD, part in zip(hidden_MD.split(size), teaching.parts(size), strict=True)
    ]
    return torch.cat(found)


@dataclass(frozen=True)
class Present:
    """A teacher that is asked now: its hidden states (M, D), and its head."""

    hidden_MD: Tensor
    head: Head

    def parts(self, size: int) -> Sequence[tuple[Tensor, ...]]:
        return [(part,) for part in self.hidden_MD.split(size)]

    def log_probs(
        self, part: tuple[Tensor, ...], student_MV: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        taught_MV = _logits(self.head, part[0], student_MV.shape[-1], temperature)
        return taught_MV.log_softmax(-1), student_MV.log_softmax(-1)


@dataclass(frozen=True)
class Stored:
    """What a teacher said before, at the same temperature: log-probabilities (M, K + 1) of its K likeliest
    tokens (M, K), and of all others together.

    What is compared are these K + 1 outcomes, so that a student who equals the teacher has a divergence of 0.
    """

    ids_MK: Tensor
    log_probs_MK: Tensor

    @classmethod
    def of(cls, present: Present, vocabulary: int, most_likely: int, temperature: float) -> Stored:
        """What a teacher that is there says, kept in short."""
        found = []
        for (hidden_mD,) in present.parts(_chunk(vocabulary)):
            taught_mV = _logits(present.head, hidden_mD, vocabulary, temperature)
            ids_mK = taught_mV.topk(most_likely).indices
            found.append((ids_mK, outcomes(taught_mV, ids_mK)))
        return cls(*map(torch.cat, zip(*found, strict=True)))

    def parts(self, size: int) -> Sequence[tuple[Tensor, ...]]:
        return list(zip(self.ids_MK.split(size), self.log_probs_MK.split(size), strict=True))

    def log_probs(
        self, part: tuple[Tensor, ...], student_MV: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ids, taught = part
        return taught.to(student_MV.dtype), outcomes(student_MV, ids)


def outcomes(logits_MV: Tensor, ids_MK: Tensor) -> Tensor:
    """(M, K + 1) log-probabilities of these tokens, and of all others together."""
    total = logits_MV.logsumexp(-1, keepdim=True)
    others = logits_MV.scatter(-1, ids_MK, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits_MV.gather(-1, ids_MK), others], -1) - total


def _chunk(vocabulary: int) -> int:
    """Tokens whose logits stand in memory at a time."""
    return max(1, CHUNK_ELEMENTS // vocabulary)


def _logits(head: Head, hidden_MD: Tensor, vocabulary: int, temperature: float) -> Tensor:
    logits = head.logits(hidden_MD)[:, :vocabulary]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
