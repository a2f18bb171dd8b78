"""How do tokens attend to their own document only? One function, whatever the backend of the layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache as once
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ptw.nn import _products
from ptw.nn.cache import LayerCache
from ptw.nn.layout import Layout


@dataclass(frozen=True, eq=False)
class How:
    """What a family's attention has of its own."""

    scale: float
    window: int | None
    sinks_N: Tensor | None
    cap: float | None


def attend(
    query_BTNH: Tensor,
    key_BTKH: Tensor,
    value_BTKH: Tensor,
    layout: Layout,
    cache: LayerCache | None = None,
    *,
    scale: float,
    window: int | None = None,
    sinks_N: Tensor | None = None,
    cap: float | None = None,
) -> Tensor:
    """Causal attention in each document, to the last `window` tokens if one is given (itself included).

    Gives (B, T, N, H), H being the width of the values, which may differ from that of the keys. N is a
    multiple of K: query heads share key heads in groups, as in GQA. With a cache, new keys and values are
    written into it first, and queries see all that it holds of their sequence. Sinks are logits, one a head,
    that every softmax has in its denominator and that no value answers to. With a cap, logits x become
    cap * tanh(x / cap) before the softmax; sinks and a cap together are not offered.
    """
    assert sinks_N is None or cap is None
    how = How(scale, window, sinks_N, cap)
    if cache is not None:
        key_BTKH, value_BTKH = cache.extend(key_BTKH, value_BTKH, layout)
    with _products.of_attention(query_BTNH, key_BTKH, value_BTKH, window):
        return _attended(query_BTNH, key_BTKH, value_BTKH, layout, how)


def leave_out_of_graphs() -> None:
    """In this process torch.compile takes attention as it stands, from now on.

    Not by a decorator: that would import the compiler with every port, which takes seconds.
    """
    global _attended
    if not hasattr(_attended, "_torchdynamo_disable"):
        _attended = torch.compiler.disable(_attended)


def _attended(query_BTNH: Tensor, key_BTKH: Tensor, value_BTKH: Tensor, layout: Layout, how: How) -> Tensor:
    """By the layout's backend."""
    if layout.backend != "flex":  # SDPA's fast kernels take as many key heads as query heads
        groups = query_BTNH.shape[2] // key_BTKH.shape[2]
        key_BTKH, value_BTKH = (x.repeat_interleave(groups, dim=2) for x in (key_BTKH, value_BTKH))
    if layout.backend == "documents":
        return _by_document(query_BTNH, key_BTKH, value_BTKH, layout, how)
    query, key, value = (tensor.transpose(1, 2) for tensor in (query_BTNH, key_BTKH, value_BTKH))
    if layout.backend == "flex":
        return _flex(query, key, value, layout, how).transpose(1, 2)
    slots = key.shape[2]
    mask = layout.remember(("mask", how.window, slots), lambda: _mask(layout, slots, how.window))
    return _sdpa(query, key, value, how, mask).transpose(1, 2)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, how: How, mask: Tensor | None = None) -> Tensor:
    """One call, heads first; without a mask it is causal."""
    width, tokens = value.shape[-1], query.shape[2]
    if how.cap is not None:
        return _capped(query, key, value, how.scale, how.cap, mask)
    if how.sinks_N is not None:
        query, key, value, mask = _with_sink(query, key, value, how.scale, how.sinks_N, mask)
    if value.shape[-1] < query.shape[-1]:  # the kernels that keep no scores want one width
        value = functional.pad(value, (0, query.shape[-1] - value.shape[-1]))
    attended = functional.scaled_dot_product_attention(
        query, key, value, mask, is_causal=mask is None, scale=how.scale
    )
    return attended[:, :, -tokens:, :width]


def _capped(
    query: Tensor, key: Tensor, value: Tensor, scale: float, cap: float, mask: Tensor | None
) -> Tensor:
    """Written out: SDPA's kernels have no cap."""
    logits = torch.tanh(query @ key.transpose(-1, -2) * scale / cap) * cap
    if mask is None:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return functional.softmax(logits, dim=-1, dtype=torch.float32).to(query.dtype) @ value


def _with_sink(
    query: Tensor, key: Tensor, value: Tensor, scale: float, sinks_N: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """A first key that scores each head's sink for every query, and whose value is 0.

    Queries are 1 in two more dimensions, in which the first key alone is not 0: it holds sink / scale there,
    in two parts, so that bf16 rounds it no more than it rounds any other score.
    """
    wide = torch.promote_types(key.dtype, torch.float32)
    score_N = sinks_N.to(wide) / scale
    high_N = score_N.to(key.dtype)
    low_N = (score_N - high_N.to(wide)).to(key.dtype)
    sink = functional.pad(torch.stack((high_N, low_N), dim=-1), (key.shape[-1], 0))
    sink = sink[None, :, None].expand(key.shape[0], -1, -1, -1)
    key = torch.cat((sink, functional.pad(key, (0, 2))), dim=2)
    value = functional.pad(value, (0, 0, 1, 0))
    # without a mask, a first query that is not looked at lets the others see one key more
    query = functional.pad(query, (0, 2, 1 if mask is None else 0, 0), value=1.0)
    return query, key, value, None if mask is None else functional.pad(mask, (1, 0), value=True)


def _by_document(
    query_BTNH: Tensor,
    key_BTKH: Tensor,
    value_BTKH: Tensor,
    layout: Layout,
    how: How,
) -> Tensor:
    """One call a document: the cost is the sum of the squared lengths, and nothing can leak."""
    # `split`: its backward is one concatenation; a slice's is a tensor of zeros of the whole batch's size
    documents = zip(
        *(x.flatten(0, 1).split(layout.pieces) for x in (query_BTNH, key_BTKH, value_BTKH)), strict=True
    )
    attended = []
    for query_TNH, key_TKH, value_TKH in documents:
        if len(query_TNH):
            query, key, value = (x[None].transpose(1, 2) for x in (query_TNH, key_TKH, value_TKH))
            attended.append(_document(query, key, value, layout, how)[0].transpose(0, 1))
    return torch.cat(attended).view(*query_BTNH.shape[:3], value_BTKH.shape[-1])


def _document(query: Tensor, key: Tensor, value: Tensor, layout: Layout, how: How) -> Tensor:
    length, window = query.shape[2], how.window
    if window is None or length <= window:
        return _sdpa(query, key, value, how)
    band = layout.remember(("band", length, window), lambda: _band(length, window, query.device))
    return _sdpa(query, key, value, how, band)


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


def _flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, how: How) -> Tensor:
    scale, window, sinks_N = how.scale, how.window, how.sinks_N
    blocks = layout.remember(("flex", window), lambda: _block_mask(layout, window))
    attention = _compiled_flex() if query.is_cuda else _flex_attention()
    grouped = query.shape[1] != key.shape[1]
    if sinks_N is None:
        changed = None if how.cap is None else _capping(how.cap)
        return attention(
            query, key, value, score_mod=changed, block_mask=blocks, scale=scale, enable_gqa=grouped
        )
    attended, beside = attention(
        query,
        key,
        value,
        block_mask=blocks,
        scale=scale,
        enable_gqa=grouped,
        return_aux=_with_log_sum(),
    )
    # what the sink takes of a softmax whose logarithm of the denominator is known
    kept = torch.sigmoid(beside.lse - sinks_N[:, None].to(beside.lse.dtype))
    return (attended * kept[..., None]).to(attended.dtype)


@once
def _capping(cap: float) -> Any:
    """One function a cap, so that what was compiled for it is found again."""

    def capped(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.tanh(score / cap) * cap

    return capped


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


@once
def _with_log_sum() -> Any:
    from torch.nn.attention.flex_attention import AuxRequest

    return AuxRequest(lse=True)
