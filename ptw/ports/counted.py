"""What does the attention of Hugging Face's class compute? It says so while its products are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ptw.nn import _products

NAME = "ptw-counted"  # among transformers' implementations of attention


@contextmanager
def attention_told(reference: Any) -> Iterator[None]:
    """Within it heads, widths and windows are counted as a port's are, if anyone counts.

    Where the class computes what no pair of tokens can say, the count is told that it is not whole.
    """
    if not _products.is_counting():
        yield
        return
    if getattr(reference, "_is_stateful", False) or not reference._can_set_attn_implementation():
        _products.leave_open()
    _make_known()
    configs = {id(one.config): one.config for one in reference.modules() if hasattr(one, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    for config, _ in before:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def _make_known() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    device: torch.device,
    local_size: int | None = None,
    **_: Any,
) -> Tensor:
    """A mask that says its window, in place of masking."""
    mask: Any = torch.ones(batch_size, 1, q_length, kv_length, dtype=torch.bool, device=device)
    if local_size is None or _slides(mask_function, local_size, device):
        mask.window = local_size
    return mask


def _slides(mask_function: Any, size: int, device: torch.device) -> bool:
    """Whether token `size` attends to token 1, which a chunk of tokens would not let it."""
    zero, last, first = (torch.tensor(place, device=device) for place in (0, size, 1))
    return bool(mask_function(zero, zero, last, first))


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **_: Any
) -> tuple[Tensor, None]:
    """As transformers asks for it, heads before tokens; of its result only the shape and gradients are right.

    A mask that the class made by itself does not say which tokens it leaves.
    """
    if not hasattr(attention_mask, "window"):
        _products.leave_open()
    window = getattr(attention_mask, "window", None)
    query_BTNH, key_BTKH, value_BTKH = (tensor.transpose(1, 2) for tensor in (query, key, value))
    with _products.of_attention(query_BTNH, key_BTKH, value_BTKH, window):
        key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value))
        attended = functional.scaled_dot_product_attention(query, key, value)
    return attended.transpose(1, 2).contiguous(), None
