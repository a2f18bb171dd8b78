"""How does a checkpoint's table get rows for tokens that it does not have?"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ptw.ports.checkpoint import Checkpoint
from ptw.ports.mapping import as_named, padded_tables
from ptw.ports.port import Port, configure

Init = Literal["grounded", "mean", "normal"]


@dataclass(frozen=True)
class Growth:
    """Rows for the tokens from `first` to `end`; the rows before them stay as they are.

    grounded: a row lies from the mean row where the texts that its token stands for lie from the mean of all
    such texts, as far off as rows usually are; `texts`: ids of texts, by token. A token without texts is
    drawn, as all are with normal: around the mean row, as far off as rows usually are. With mean all are it.
    """

    first: int
    end: int
    init: Init = "grounded"
    texts: Mapping[int, Sequence[Sequence[int]]] = field(default_factory=dict)
    seed: int = 0

    def table(self, table_VD: Tensor) -> Tensor:
        """The table with `end` rows at least, in its dtype."""
        wide_VD = table_VD.double()
        old_VD = wide_VD[: self.first]
        mean_D = old_VD.mean(0)
        usual = (old_VD - mean_D).square().sum(-1).mean().sqrt()
        new_ND = mean_D.expand(self.end - self.first, -1).clone()
        if self.init != "mean":
            generator = torch.Generator().manual_seed(self.seed)
            drawn_ND = torch.randn(new_ND.shape, generator=generator, dtype=torch.float64)
            new_ND += drawn_ND * usual / math.sqrt(new_ND.shape[-1])
        if self.init == "grounded" and self.texts:
            self._ground(new_ND, old_VD, mean_D, usual)
        grown_VD = torch.cat([wide_VD, wide_VD.new_zeros(max(0, self.end - len(wide_VD)), wide_VD.shape[-1])])
        grown_VD[self.first : self.end] = new_ND
        return grown_VD.to(table_VD.dtype)

    def _ground(self, new_ND: Tensor, old_VD: Tensor, mean_D: Tensor, usual: Tensor) -> None:
        tokens = list(self.texts)
        means_MD = torch.stack([_mean_row(old_VD, self.texts[token]) for token in tokens])
        off_MD = means_MD - means_MD.mean(0)
        length = off_MD.square().sum(-1).mean().sqrt()
        if length > 0:
            new_ND[torch.tensor(tokens) - self.first] = mean_D + off_MD * (usual / length)


@dataclass(frozen=True)
class GrownCheckpoint(Checkpoint):
    """A checkpoint whose tables of tokens are read with their new rows."""

    growth: Growth = Growth(0, 0)
    tables: Collection[str] = ()

    def read(self, name: str) -> Tensor:
        tensor = super().read(name)
        return self.growth.table(tensor) if name in self.tables else tensor


def grown_config(hf_config: Mapping[str, Any], growth: Growth) -> dict[str, Any]:
    """With as many rows as the table has then."""
    return {**hf_config, "vocab_size": max(int(hf_config["vocab_size"]), growth.end)}


def grown(checkpoint: Checkpoint, growth: Growth, port: Port) -> GrownCheckpoint:
    """The checkpoint as this port reads it then."""
    config = grown_config(checkpoint.hf_config, growth)
    operators = as_named(port.weights(configure(port, config)), checkpoint.files)
    padded = padded_tables(operators)
    tables = {name for one in operators if set(one.ours) & padded.keys() for name in one.theirs}
    return GrownCheckpoint(checkpoint.folder, config, checkpoint.files, growth, tables)


def _mean_row(table_VD: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """(D,) the mean over the texts of the mean over their tokens."""
    return torch.stack([table_VD[list(text)].mean(0) for text in texts]).mean(0)
