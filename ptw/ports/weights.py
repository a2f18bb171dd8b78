"""Which tensors of a Hugging Face checkpoint make which parameters of a port? Operators, played both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.nn.head import padded_rows


class Operator(Protocol):
    """One invertible step between checkpoint tensors (`theirs`) and parameters (`ours`), exact both ways.

    `from_hf` and `to_hf` take and give tensors in the order of the names, of any dtype, which they keep.
    """

    @property
    def theirs(self) -> tuple[str, ...]:
        """The checkpoint's names."""

    @property
    def ours(self) -> tuple[str, ...]:
        """The port's names."""

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Parameters of checkpoint tensors."""

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Checkpoint tensors of parameters."""


@dataclass(frozen=True)
class Rename:
    """One tensor under another name."""

    theirs_name: str
    ours_name: str

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.theirs_name,)

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.ours_name,)

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)


def Same(name: str) -> Rename:  # noqa: N802 - reads as an operator
    """One tensor under the same name on both sides."""
    return Rename(name, name)


def linear(name: str, bias: bool = False) -> list[Operator]:
    """A projection under the same name on both sides."""
    return [Same(f"{name}.weight"), *([Same(f"{name}.bias")] if bias else [])]


@dataclass(frozen=True)
class PadVocabulary:
    """A table of one row a token; the port's is filled with zeros up to a multiple of 64, never exported."""

    name: str
    vocabulary: int

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.name,)

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        (table,) = tensors
        if len(table) != self.vocabulary:
            raise PtwError(
                f"config.json: vocab_size = {self.vocabulary}, but {self.name} has {len(table)} rows; "
                "correct the one that is wrong"
            )
        padding = table.new_zeros(padded_rows(self.vocabulary) - len(table), *table.shape[1:])
        return [torch.cat([table, padding]) if len(padding) else table]

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        (table,) = tensors
        return [table[: self.vocabulary]]


@dataclass(frozen=True)
class Named:
    """An operator on one tensor that checkpoints hold under one of several names; the first is written."""

    operator: Operator
    names: tuple[str, ...]

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.names[0],)

    @property
    def ours(self) -> tuple[str, ...]:
        return self.operator.ours

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return self.operator.from_hf(tensors)

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return self.operator.to_hf(tensors)


@dataclass(frozen=True)
class Either:
    """Parameters that checkpoints hold in one of several forms; the first is written."""

    forms: tuple[Operator, ...]

    @property
    def theirs(self) -> tuple[str, ...]:
        return self.forms[0].theirs

    @property
    def ours(self) -> tuple[str, ...]:
        return self.forms[0].ours

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return self.forms[0].from_hf(tensors)

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return self.forms[0].to_hf(tensors)


@dataclass(frozen=True)
class Wide:
    """An operator whose parameters are held in fp32 at least, as the reference has them."""

    operator: Operator

    @property
    def theirs(self) -> tuple[str, ...]:
        return self.operator.theirs

    @property
    def ours(self) -> tuple[str, ...]:
        return self.operator.ours

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return self.operator.from_hf(tensors)

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return self.operator.to_hf(tensors)


@dataclass(frozen=True)
class Fuse:
    """Several checkpoint tensors, along `dim`, in one parameter. sizes: theirs along `dim`."""

    theirs: tuple[str, ...]
    ours_name: str
    sizes: tuple[int, ...]
    dim: int = 0

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.ours_name,)

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(list(tensors), dim=self.dim)]

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors[0].split(list(self.sizes), dim=self.dim))


@dataclass(frozen=True)
class Split:
    """One checkpoint tensor cut along `dim` into several parameters of these sizes: `Fuse`, the other way."""

    theirs_name: str
    ours: tuple[str, ...]
    sizes: tuple[int, ...]
    dim: int = 0

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.theirs_name,)

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors[0].split(list(self.sizes), dim=self.dim))

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(list(tensors), dim=self.dim)]


@dataclass(frozen=True)
class Transpose:
    """One tensor with two dimensions exchanged."""

    theirs_name: str
    ours_name: str
    dims: tuple[int, int] = (-2, -1)

    @property
    def theirs(self) -> tuple[str, ...]:
        return (self.theirs_name,)

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.ours_name,)

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0].transpose(*self.dims)]

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensors[0].transpose(*self.dims)]


@dataclass(frozen=True)
class Stack:
    """`parts` checkpoint tensors an expert, one below the other, stacked along a new first dimension."""

    theirs: tuple[str, ...]
    ours_name: str
    parts: int = 1

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.ours_name,)

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        starts = range(0, len(tensors), self.parts)
        return [torch.stack([torch.cat(list(tensors[start : start + self.parts])) for start in starts])]

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [part for expert in tensors[0].unbind() for part in expert.chunk(self.parts)]


@dataclass(frozen=True)
class Tied:
    """A parameter that is another one: a checkpoint may repeat it, the export leaves it out."""

    name: str
    of: str
    theirs: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return []

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return []


@dataclass(frozen=True)
class Absent:
    """A tensor that older checkpoints of a family may hold and that the reference does not read either.

    Such as a RoPE's inv_freq in Llama's. A family whose checkpoints never held one needs none."""

    name: str
    theirs: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return []

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return []
