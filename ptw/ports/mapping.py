"""What follows from a port's weight operators, for a checkpoint that is there?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ptw.ports.weights import Either, Named, Operator, PadVocabulary, Rename, Wide


@dataclass(frozen=True)
class Drawn:
    """A parameter that no checkpoint has: the same on every process."""

    name: str
    value: Tensor
    theirs: tuple[str, ...] = ()

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.name,)

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [self.value]

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return []


def as_named(operators: Sequence[Operator], found: Collection[str]) -> list[Operator]:
    """The operators with the names that a checkpoint has, so that it is written under them, too."""
    return [_as_named(operator, found) for operator in operators]


def _as_named(operator: Operator, found: Collection[str]) -> Operator:
    if isinstance(operator, Wide):
        return Wide(_as_named(operator.operator, found))
    if isinstance(operator, Named):
        return replace(operator, names=tuple(sorted(operator.names, key=lambda name: name not in found)))
    if isinstance(operator, Either):
        return next((form for form in operator.forms if set(form.theirs) <= set(found)), operator)
    return operator


def names_of(operator: Operator) -> set[str]:
    """Every name under which a checkpoint may hold what it reads."""
    if isinstance(operator, Wide):
        return names_of(operator.operator)
    if isinstance(operator, Named):
        return set(operator.names)
    if isinstance(operator, Either):
        return {name for form in operator.forms for name in form.theirs}
    return set(operator.theirs)


def back_to_checkpoint(
    operators: Sequence[Operator], state: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Gradients of checkpoint tensors by those of the parameters: any map is right, also one that scales."""
    for operator in operators:
        theirs = [state[name].to(torch.float64).requires_grad_() for name in operator.theirs]
        if theirs:
            with torch.enable_grad():
                ours = operator.from_hf(theirs)
            sums = [gradients[name] for name in operator.ours]
            yield from zip(operator.theirs, torch.autograd.grad(ours, theirs, sums), strict=True)


def held_wide(operators: Sequence[Operator]) -> frozenset[str]:
    """The parameters that are held in fp32 at least."""
    return frozenset(name for one in operators if isinstance(one, Wide) for name in one.ours)


def renamed(operators: Sequence[Operator]) -> dict[str, str]:
    """The checkpoint's name of each parameter that is one of its tensors as it stands."""
    return {one.ours_name: one.theirs_name for one in operators if isinstance(one, Rename)}


def padded_tables(operators: Sequence[Operator]) -> dict[str, int]:
    """The parameters that have rows beyond the vocabulary, and how many rows are not."""
    plain = [operator.operator if isinstance(operator, Named) else operator for operator in operators]
    return {table.name: table.vocabulary for table in plain if isinstance(table, PadVocabulary)}
