"""How do token ids become hidden states where a family scales them?"""

from __future__ import annotations

from torch import Tensor, nn


class ScaledEmbedding(nn.Embedding):
    """A table of one row a token, times a number that is first rounded to the table's dtype.

    In bf16 the square root of 3072 is 55.5 so, not 55.4256: the model was trained with that.
    """

    def __init__(self, rows: int, width: int, padding_id: int | None, scale: float) -> None:
        super().__init__(rows, width, padding_id)
        self.scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        hidden = super().forward(ids)
        return hidden * hidden.new_full((), self.scale)
