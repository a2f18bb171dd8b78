"""Where do the documents of a packed batch lie, and what does attention need to keep them apart?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Backend = Literal["dense", "documents", "flex", "cache"]
Side = Literal["left", "right"]
PADDING = -1  # the document number of padding


@dataclass(frozen=True, eq=False)
class Layout:
    """The documents of a batch, built once a batch and shared by every layer.

    positions_BT: int64, from 0 in each document. documents_BT: int64, the number of the document in its row,
    -1 for padding. lengths: per row, each document's length in tokens (with a cache: what the document will
    measure after this call). padding: the side of a row that is filled up. Attention builds and keeps its
    masks here, so that a port never makes one.
    """

    positions_BT: Tensor
    documents_BT: Tensor
    lengths: tuple[tuple[int, ...], ...]
    backend: Backend
    padding: Side = "right"
    _masks: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_documents(
        cls,
        lengths: Sequence[Sequence[int]],
        width: int | None = None,
        device: torch.device | str = "cpu",
        backend: Literal["dense", "documents", "flex"] | None = None,
        padding: Side = "right",
    ) -> Layout:
        """Row b holds documents of `lengths[b]` tokens; the rest, up to `width`, is padding on one side."""
        rows = tuple(tuple(int(length) for length in row) for row in lengths)
        width = max(map(sum, rows)) if width is None else width
        assert all(sum(row) <= width for row in rows), f"documents of {max(map(sum, rows))} tokens in {width}"
        positions = torch.stack([_placed(_positions(row, width), sum(row), padding) for row in rows])
        documents = torch.stack([_placed(_documents(row, width), sum(row), padding) for row in rows])
        chosen = backend or best_backend(device)
        return cls(positions.to(device), documents.to(device), rows, chosen, padding)

    @classmethod
    def of_steps(
        cls,
        starts: Sequence[int],
        counts: Sequence[int],
        device: torch.device | str = "cpu",
        padding: Side = "right",
    ) -> Layout:
        """The next `counts[b]` tokens of sequences of which the cache already holds `starts[b]` tokens.

        Padding has the positions after the new tokens: what it writes there is overwritten before it is seen.
        """
        steps = torch.arange(max(counts))
        pairs = list(zip(starts, counts, strict=True))
        positions = torch.stack([_placed(start + steps, count, padding) for start, count in pairs])
        documents = torch.stack(
            [_placed(torch.where(steps < count, 0, PADDING), count, padding) for count in counts]
        )
        lengths = tuple((start + count,) for start, count in pairs)
        return cls(positions.to(device), documents.to(device), lengths, "cache", padding)

    @property
    def width(self) -> int:
        """Tokens in a row, padding included."""
        return self.positions_BT.shape[1]

    @property
    def pieces(self) -> list[int]:
        """The lengths of what lies in the rows one after the other: documents, and each row's padding."""
        found: list[int] = []
        for lengths in self.lengths:
            filler = self.width - sum(lengths)
            found += [filler, *lengths] if self.padding == "left" else [*lengths, filler]
        return found

    def summed(self, values: Tensor) -> Tensor:
        """(B, N, ...) sums of values (B, T, ...) over each document of a row; N is the most that any has."""
        most = max(map(len, self.lengths))
        sums = values.new_zeros(len(self.lengths), most + 1, *values.shape[2:])
        place = torch.where(self.documents_BT == PADDING, most, self.documents_BT)
        place = place.view(*place.shape, *(1 for _ in values.shape[2:])).expand_as(values)
        return sums.scatter_add(1, place, values)[:, :most]

    def remember(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """What `make` gives for `key`, made once a batch."""
        if key not in self._masks:
            self._masks[key] = make()
        return self._masks[key]


def best_backend(device: torch.device | str) -> Literal["documents", "flex"]:
    """FlexAttention on a GPU; on a CPU one call a document, which skips what a mask would multiply by 0."""
    return "documents" if torch.device(device).type == "cpu" else "flex"


def _positions(lengths: tuple[int, ...], width: int) -> Tensor:
    padding = width - sum(lengths)
    return torch.cat([torch.arange(length) for length in (*lengths, padding)])


def _documents(lengths: tuple[int, ...], width: int) -> Tensor:
    numbers = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    return torch.cat([numbers, torch.full((width - sum(lengths),), PADDING)])


def _placed(row_T: Tensor, filled: int, padding: Side) -> Tensor:
    """A row that is padded on the right, with its padding on the other side where that is wanted."""
    return row_T if padding == "right" else row_T.roll(len(row_T) - filled)
