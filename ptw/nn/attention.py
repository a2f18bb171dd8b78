"""How do tokens attend to their own document only? One function, whatever the backend of the layout."""

from __future__ import annotations

from functools import cache as once
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ptw.nn.cache import LayerCache
from ptw.nn.layout import Layout


def attend(
    query_BTNH: Tensor,
    key_BTKH: Tensor,
    value_BTKH: Tensor,
    layout: Layout,
    cache: LayerCache | None = None,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Causal attention in each document, to the last `window` tokens if one is given (itself included).

    Gives (B, T, N, H). N is a multiple of K: query heads share key heads in groups, as in GQA. With a cache,
    new keys and values are written into it first, and queries see all that it holds of their sequence.
    """
    if cache is not None:
        key_BTKH, value_BTKH = cache.extend(key_BTKH, value_BTKH, layout)
    if layout.backend != "flex":  # SDPA's fast kernels take as many key heads as query heads
        groups = query_BTNH.shape[2] // key_BTKH.shape[2]
        key_BTKH, value_BTKH = (x.repeat_interleave(groups, dim=2) for x in (key_BTKH, value_BTKH))
    if layout.backend == "documents":
        return _by_document(query_BTNH, key_BTKH, value_BTKH, layout, scale, window)
    query, key, value = (tensor.transpose(1, 2) for tensor in (query_BTNH, key_BTKH, value_BTKH))
    if layout.backend == "flex":
        return _flex(query, key, value, layout, scale, window).transpose(1, 2)
    slots = key.shape[2]
    mask = layout.remember(("mask", window, slots), lambda: _mask(layout, slots, window))
    return _sdpa(query, key, value, scale, mask).transpose(1, 2)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """One call, heads first; without a mask it is causal."""
    return functional.scaled_dot_product_attention(
        query, key, value, mask, is_causal=mask is None, scale=scale
    )


def _by_document(
    query_BTNH: Tensor,
    key_BTKH: Tensor,
    value_BTKH: Tensor,
    layout: Layout,
    scale: float,
    window: int | None,
) -> Tensor:
    """One call a document: the cost is the sum of the squared lengths, and nothing can leak."""
    lengths = [length for row in layout.lengths for length in (*row, layout.width - sum(row))]
    # `split`: its backward is one concatenation; a slice's is a tensor of zeros of the whole batch's size
    documents = zip(
        *(x.flatten(0, 1).split(lengths) for x in (query_BTNH, key_BTKH, value_BTKH)), strict=True
    )
    attended = []
    for query_TNH, key_TKH, value_TKH in documents:
        if len(query_TNH):
            query, key, value = (x[None].transpose(1, 2) for x in (query_TNH, key_TKH, value_TKH))
            attended.append(_document(query, key, value, layout, scale, window)[0].transpose(0, 1))
    return torch.cat(attended).view(*query_BTNH.shape[:3], value_BTKH.shape[-1])


def _document(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None
) -> Tensor:
    length = query.shape[2]
    if window is None or length <= window:
        return _sdpa(query, key, value, scale)
    band = layout.remember(("band", length, window), lambda: _band(length, window, query.device))
    return _sdpa(query, key, value, scale, band)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    return (distance >= 0) & (distance < window)


def _mask(layout: Layout, keys: int, window: int | None) -> Tensor:
    """(B, 1, T, S) of booleans: dense over the packed row, or over the cache's slots, which are positions."""
    query_position = layout.positions_BT[:, None, :, None]
    if layout.backend == "cache":
        key_position = torch.arange(keys, device=query_position.device)[None, None, None, :]
        allowed = query_position >= key_position
    else:
        key_position = layout.positions_BT[:, None, None, :]
        same = layout.documents_BT[:, None, :, None] == layout.documents_BT[:, None, None, :]
        allowed = same & (query_position >= key_position)
    return allowed if window is None else allowed & (query_position - key_position < window)


def _flex(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None
) -> Tensor:
    blocks = layout.remember(("flex", window), lambda: _block_mask(layout, window))
    attention = _compiled_flex() if query.is_cuda else _flex_attention()
    grouped = query.shape[1] != key.shape[1]
    return attention(query, key, value, block_mask=blocks, scale=scale, enable_gqa=grouped)


def _block_mask(layout: Layout, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    documents_BT, positions_BT = layout.documents_BT, layout.positions_BT

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = positions_BT[row, query] - positions_BT[row, key]
        same = documents_BT[row, query] == documents_BT[row, key]
        near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        return same & near

    rows, width = documents_BT.shape
    return create_block_mask(allowed, rows, None, width, width, device=str(documents_BT.device))


@once
def _flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@once
def _compiled_flex() -> Any:
    return torch.compile(_flex_attention(), dynamic=False)
