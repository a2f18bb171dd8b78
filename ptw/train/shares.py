"""What do the passes of a step add up to, over all workers?"""

from collections.abc import Mapping

from torch import Tensor

from ptw.data.pack import PackedRow
from ptw.train.feed import Batch
from ptw.train.group import Group


class Shares:
    """Of the step that is being computed, by pass: this worker's shares of its loss and of its figures."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._passes: list[tuple[dict[str, Tensor], Batch]] = []

    def add(self, batch: Batch, shares: Mapping[str, Tensor]) -> None:
        self._passes.append(({name: share.detach().double() for name, share in shares.items()}, batch))

    def means(self, stopping: bool) -> tuple[dict[str, float], bool]:
        """Of the whole step, and whether any worker is to stop; all workers call it together."""
        names = list(self._passes[0][0])
        own = [float(sum(shares[name].item() for shares, _ in self._passes)) for name in names]
        *sums, stop = self._group.sum(*map(self._group.once, own), float(stopping))
        return dict(zip(names, sums, strict=True)), stop > 0

    @property
    def losses(self) -> list[tuple[Tensor, Batch]]:
        return [(shares["loss"], batch) for shares, batch in self._passes]

    @property
    def rows(self) -> list[PackedRow]:
        return [row for _, batch in self._passes for row in batch.rows]

    def clear(self) -> None:
        self._passes.clear()
