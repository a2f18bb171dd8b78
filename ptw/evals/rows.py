"""How do packed rows become forward passes, the same number of them on every worker?"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ptw.data.pack import IGNORED, PackedRow
from ptw.nn.layout import Layout

T = TypeVar("T")


class Packed(Protocol):
    """A forward pass of rows, whoever made it."""

    @property
    def layout(self) -> Layout: ...

    @property
    def rows(self) -> tuple[PackedRow, ...]: ...


class Forward(NamedTuple):
    """What a model is called with, what it should say, and the rows that this was made of."""

    ids_BT: Tensor
    layout: Layout
    targets_BT: Tensor
    rows: tuple[PackedRow, ...]


def forward_of(rows: Sequence[PackedRow], device: torch.device) -> Forward:
    ids_BT = torch.from_numpy(np.stack([row.ids for row in rows])).long().to(device)
    targets_BT = torch.from_numpy(np.stack([row.targets for row in rows])).long().to(device)
    layout = Layout.of_documents([row.lengths for row in rows], width=ids_BT.shape[1], device=device)
    return Forward(ids_BT, layout, targets_BT, tuple(rows))


def of_documents(values: Tensor, batch: Packed) -> Tensor:
    """(K, ...) sums of values (B, T, ...) over each document of the batch's samples, in their order."""
    sums = batch.layout.summed(values)
    counts = [len(row.lengths) if row.samples else 0 for row in batch.rows]
    return torch.cat([sums[at, :count] for at, count in enumerate(counts)])


def last(hidden_BTD: Tensor, batch: Packed, pad_id: int | None = None) -> Tensor:
    """(K, D) of the last token of each document, of rows that hold samples.

    With `pad_id` of the last one that is not this id, as transformers' classifiers find it: a tokenizer may
    end its texts with the id that pads them.
    """
    places = [
        (at, end - 1 if pad_id is None else _unpadded(row.ids, begin, end, pad_id))
        for at, row in enumerate(batch.rows)
        if row.samples
        for begin, end in pairwise([0, *accumulate(row.lengths)])
    ]
    rows, ends = torch.tensor(places, dtype=torch.int64, device=hidden_BTD.device).view(-1, 2).unbind(-1)
    return hidden_BTD[rows, ends]


def _unpadded(ids: np.ndarray, begin: int, end: int, pad_id: int) -> int:
    """The first where there is no other id, as transformers has it."""
    others = np.flatnonzero(ids[begin:end] != pad_id)
    return begin + int(others[-1]) if len(others) else begin


def dealt(rows: Sequence[PackedRow], rank: int, world: int) -> list[PackedRow]:
    """Rows r, r + world, ... of them; who gets one less gets an empty one, so that all do the same."""
    window = len(rows[0].ids)
    own = list(rows[rank::world])
    return own + [empty(window)] * (-(-len(rows) // world) - len(own))


def empty(window: int) -> PackedRow:
    """A row to compute without anything to learn: one token, no target."""
    return PackedRow(np.zeros(window, np.int32), np.full(window, IGNORED, np.int64), (1,), ())


def groups(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """`size` of them at a time; the last group may have fewer."""
    iterator = iter(values)
    while group := list(islice(iterator, size)):
        yield group


def learnt(rows: Iterable[PackedRow]) -> int:
    """Tokens with a loss."""
    return sum(int((row.targets != IGNORED).sum()) for row in rows)
