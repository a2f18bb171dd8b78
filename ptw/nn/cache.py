"""What does decoding keep of the tokens that it has seen? Keys and values, one block a layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ptw.nn.layout import Layout, Side

GROWTH = 128  # slots added at a time, so that a step seldom copies


class LayerCache:
    """One layer's keys and values: sequence b fills slots 0 up to its length; no query sees beyond."""

    def __init__(self, growth: int = GROWTH) -> None:
        self._growth = growth
        self.key_BSKH: Tensor | None = None
        self.value_BSKH: Tensor | None = None

    def extend(self, key_BTKH: Tensor, value_BTKH: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Write T new tokens at their positions; give all slots up to the longest sequence's end."""
        slots = max(length for (length,) in layout.lengths)
        self.key_BSKH = _grown(self.key_BSKH, key_BTKH, layout.positions_BT, slots, self._growth)
        self.value_BSKH = _grown(self.value_BSKH, value_BTKH, layout.positions_BT, slots, self._growth)
        return self.key_BSKH[:, :slots], self.value_BSKH[:, :slots]

    def picked(self, rows: Tensor) -> LayerCache:
        """Another one, whose sequence b is sequence rows[b] of this; one may go on as several, or end."""
        other = LayerCache(self._growth)
        if self.key_BSKH is not None and self.value_BSKH is not None:
            other.key_BSKH, other.value_BSKH = self.key_BSKH[rows], self.value_BSKH[rows]
        return other


class KVCache:
    """The caches of all layers, and how many tokens of each sequence they hold.

    >>> cache = KVCache(layers)
    >>> hidden = model(ids_BT, cache.step(counts), cache)  # row b: counts[b] tokens, and padding

    growth: slots added at a time; who knows how few tokens will follow need not carry more.
    """

    def __init__(self, layers: int, growth: int = GROWTH) -> None:
        self.layers = [LayerCache(growth) for _ in range(layers)]
        self.lengths: list[int] = []

    def step(
        self, counts: Sequence[int], device: torch.device | str = "cpu", padding: Side = "right"
    ) -> Layout:
        """The layout of the next counts[b] tokens of each sequence; counts them as held."""
        starts = self.lengths or [0] * len(counts)
        self.lengths = [start + count for start, count in zip(starts, counts, strict=True)]
        return Layout.of_steps(starts, counts, device, padding)

    def pick(self, rows: Tensor) -> None:
        """Sequence b becomes what sequence rows[b] was, in all layers."""
        self.lengths = [self.lengths[row] for row in rows.tolist()]
        for at, layer in enumerate(self.layers):
            self.layers[at] = layer.picked(rows)

    def picked(self, rows: Tensor) -> KVCache:
        """As `pick`, but this one stays as it is."""
        other = KVCache(0)
        other.layers, other.lengths = [*self.layers], [*self.lengths]
        other.pick(rows)
        return other


def layers_of(cache: KVCache | None, layers: int) -> Sequence[LayerCache | None]:
    """One cache a layer, or as many times none."""
    return [None] * layers if cache is None else cache.layers


def _grown(
    held_BSKH: Tensor | None, new_BTKH: Tensor, positions_BT: Tensor, slots: int, growth: int
) -> Tensor:
    rows = len(positions_BT)
    needed = max(slots, int(positions_BT.max()) + 1)  # padding of a short row may reach beyond its end
    if held_BSKH is None:
        held_BSKH = new_BTKH.new_zeros(rows, needed + growth, *new_BTKH.shape[2:])
    elif held_BSKH.shape[1] < needed:
        more = held_BSKH.new_zeros(rows, needed + growth - held_BSKH.shape[1], *held_BSKH.shape[2:])
        held_BSKH = torch.cat([held_BSKH, more], dim=1)
    held_BSKH[torch.arange(rows, device=positions_BT.device)[:, None], positions_BT] = new_BTKH
    return held_BSKH
