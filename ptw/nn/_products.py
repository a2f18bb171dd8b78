"""Which matrix products does a forward pass make, and which will its backward pass make?

They are counted as they are asked for, not as a kernel makes them: what fills a group of experts up, what a
mask multiplies by zero and what is computed twice to save memory is no work of the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FLOPS = 2  # of a term: a product, and its sum with the others
# where the two factors stand among a function's arguments
FACTORS: dict[Any, tuple[int, int]] = {
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm), (0, 1)),
    **dict.fromkeys((Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm), (0, 1)),
    **dict.fromkeys((torch.addmm, torch.baddbmm, Tensor.addmm, Tensor.baddbmm), (1, 2)),
    functional.linear: (0, 1),
    torch._grouped_mm: (0, 1),  # what functional.grouped_mm asks for
}


class Products(TorchFunctionMode):
    """Counts what is computed while it is entered; gradients are those that `requires_grad` asks for.

    flops: of products with matrices, forward and backward. attention: by window (None: the whole document),
    the FLOPs of one pair of tokens of which one attends to the other, over all heads and layers. is_whole:
    False where more is computed than is counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.attention: dict[int | None, int] = {}
        self.is_inside = False
        self.is_whole = True

    def __enter__(self) -> Products:
        _counting.append(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _counting.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if self.is_inside:
            return made
        places = (0, 1, 2) if func is functional.scaled_dot_product_attention else FACTORS.get(func)
        if func is torch.einsum or (places is not None and len(args) <= places[-1]):
            self.is_whole = False  # which letter or keyword is what, nobody asks here
        elif func in FACTORS:
            left, right = (args[place] for place in FACTORS[func])
            self.add_product(made.numel() * left.shape[-1], left, right)
        elif places is not None:
            query, key, value = (tensor.transpose(1, 2) for tensor in args[:3])
            self.add_attention(query, key, value, None)
        return made

    def add_product(self, terms: int, left: Tensor, right: Tensor) -> None:
        """A product of so many terms, and as many for the gradient of each factor."""
        self.flops += FLOPS * terms * (1 + left.requires_grad + right.requires_grad)

    def add_attention(
        self, query_BTNH: Tensor, key_BTKH: Tensor, value_BTKH: Tensor, window: int | None
    ) -> None:
        """The scores, what is summed by them, and the gradients of both."""
        query, key, value = (x.requires_grad for x in (query_BTNH, key_BTKH, value_BTKH))
        scored = query_BTNH.shape[-1] * (1 + query + key)
        summed = value_BTKH.shape[-1] * (1 + value + (query or key))
        pair = FLOPS * query_BTNH.shape[2] * (scored + summed)
        self.attention[window] = self.attention.get(window, 0) + pair


_counting: list[Products] = []


def is_counting() -> bool:
    return bool(_counting)


def leave_open() -> None:
    """More is computed here than is counted."""
    if _counting:
        _counting[-1].is_whole = False


@contextmanager
def of_attention(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Iterator[None]:
    """Attention is computed here, of (B, T, N or K, H)."""
    if _counting:
        _counting[-1].add_attention(query, key, value, window)
    with inside():
        yield


@contextmanager
def of_experts(rows: int, rows_RI: Tensor, weight_EOI: Tensor) -> Iterator[None]:
    """Experts are computed here; `rows` of the R rows are work, the others fill groups up."""
    if _counting:
        _counting[-1].add_product(rows * weight_EOI[0].numel(), rows_RI, weight_EOI)
    with inside():
        yield


@contextmanager
def inside() -> Iterator[None]:
    """How something is computed that is counted as a whole, or not at all."""
    if not _counting:
        yield
        return
    counter = _counting[-1]
    before, counter.is_inside = counter.is_inside, True
    try:
        yield
    finally:
        counter.is_inside = before
