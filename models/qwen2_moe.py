"""Qwen2Moe. Reference: transformers/models/qwen2_moe/modeling_qwen2_moe.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptw.errors import PtwError
from ptw.nn.activation import ACTIVATIONS
from ptw.nn.attention import attend
from ptw.nn.cache import KVCache, LayerCache, layers_of
from ptw.nn.config import padding_id, read_config
from ptw.nn.experts import Groups, grouped_linear
from ptw.nn.head import Head, padded_rows
from ptw.nn.layout import Layout
from ptw.nn.norm import RMSNorm
from ptw.nn.rope import CONFIG_KEYS, Rope, RopeConfig, Rotation
from ptw.ports.weights import Either, Operator, PadVocabulary, Same, Stack, Tied, linear

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    layer_types: tuple[str, ...]
    sparse_layers: tuple[int, ...]  # those with experts; the others have one MLP
    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 5632
    moe_intermediate_size: int = 1408
    shared_expert_intermediate_size: int = 5632
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    head_dim: int = 128
    num_experts: int = 60
    num_experts_per_tok: int = 4
    norm_topk_prob: bool = False
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    qkv_bias: bool = True
    sliding_window: int | None = 4096
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        layers = values.get("num_hidden_layers", cls.num_hidden_layers)
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        width = values.get("head_dim") or values.get("hidden_size", cls.hidden_size) // heads
        positions = values.get("max_position_embeddings", cls.max_position_embeddings)
        experts = values.get("num_experts", cls.num_experts)
        chosen = values.get("num_experts_per_tok", cls.num_experts_per_tok)
        sparse = _sparse_layers(values, layers, experts)
        if sparse and chosen > experts:
            raise PtwError(
                f"config.json: num_experts_per_tok = {chosen}, but there are num_experts = {experts}"
            )
        window = (
            values.get("sliding_window", cls.sliding_window) if values.get("use_sliding_window") else None
        )
        layer_types = _layer_types(values, layers)
        if SLIDING in layer_types and (window is None or window < 2):
            raise PtwError(
                f"config.json: layer_types has {SLIDING!r}, but the window in force is {window}: "
                "use_sliding_window must be true and sliding_window at least 2 "
                "(of 1 the reference's cache forgets nothing, so that it decodes without a window)"
            )
        return read_config(
            cls,
            values,
            derived={
                "head_dim": width,
                "num_key_value_heads": values.get("num_key_value_heads", cls.num_key_value_heads) or heads,
                "num_experts": experts or 1,  # without any, no layer is sparse
                "sparse_layers": sparse,
                "rope": RopeConfig.from_hf(values, width, positions),
                "layer_types": layer_types,
                "sliding_window": window,
                "pad_token_id": padding_id(
                    values.get("pad_token_id"), values.get("vocab_size", cls.vocab_size)
                ),
            },
            choices={"hidden_act": ACTIVATIONS, "output_router_logits": (False, None)},
            consumed=(
                *CONFIG_KEYS,
                "decoder_sparse_step",
                "max_window_layers",
                "mlp_only_layers",
                "router_aux_loss_coef",
                "use_sliding_window",
            ),
        )


def _layer_types(values: dict[str, Any], layers: int) -> tuple[str, ...]:
    """Without a list every second layer, from the first on, has the window, if it is in use."""
    layer_types = values.get("layer_types")
    if layer_types is None:
        sliding = values.get("max_window_layers", 28) if values.get("use_sliding_window") else 0
        return tuple(SLIDING if layer % 2 == 0 and layer < sliding else FULL for layer in range(layers))
    if len(layer_types) < layers or not set(layer_types) <= {FULL, SLIDING}:
        raise PtwError(
            f"config.json: layer_types = {layer_types!r}: "
            f"it needs {layers} entries of {FULL!r} and {SLIDING!r}"
        )
    return tuple(layer_types[:layers])


def _sparse_layers(values: dict[str, Any], layers: int, experts: int) -> tuple[int, ...]:
    step, dense = values.get("decoder_sparse_step", 1), values.get("mlp_only_layers") or ()
    return tuple(
        layer for layer in range(layers) if layer not in dense and experts and (layer + 1) % step == 0
    )


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.sliding_window if config.layer_types[layer] == SLIDING else None
        queries, keys = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        heads = (*hidden_BTD.shape[:2], -1, self.head_dim)
        query_BTNH = rotate(self.q_proj(hidden_BTD).view(heads))
        key_BTKH = rotate(self.k_proj(hidden_BTD).view(heads))
        value_BTKH = self.v_proj(hidden_BTD).view(heads)
        attended = attend(
            query_BTNH, key_BTKH, value_BTKH, layout, cache, scale=self.head_dim**-0.5, window=self.window
        )
        return self.o_proj(attended.flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(hidden)) * self.up_proj(hidden))


class Router(nn.Module):
    """Each token's experts, and their shares of the softmax over all experts."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.chosen = config.num_experts_per_tok
        self.renormalised = config.norm_topk_prob

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        logits_TE = functional.linear(hidden_TD, self.weight)
        share_TK, expert_TK = logits_TE.softmax(dim=-1, dtype=torch.float32).topk(self.chosen, dim=-1)
        if self.renormalised:
            share_TK = share_TK / share_TK.sum(dim=-1, keepdim=True)
        return share_TK.to(logits_TE.dtype), expert_TK


class Experts(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        experts, width, inner = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))
        self.experts = experts
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_TD: Tensor, expert_TK: Tensor, share_TK: Tensor) -> Tensor:
        groups = Groups.of(expert_TK, self.experts)
        gate, up = grouped_linear(groups.rows(hidden_TD), self.gate_up_proj, groups).chunk(2, dim=-1)
        out = grouped_linear(self.activation(gate) * up, self.down_proj, groups)
        return groups.sum(out, share_TK)


class SparseMLP(nn.Module):
    """Each token's chosen experts, and one that all tokens share, by a gate of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_expert = MLP(config, config.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        hidden_TD = hidden_BTD.flatten(0, 1)
        share_TK, expert_TK = self.gate(hidden_TD)
        shared_TD = self.shared_expert_gate(hidden_TD).sigmoid() * self.shared_expert(hidden_TD)
        return (self.experts(hidden_TD, expert_TK, share_TK) + shared_TD).view_as(hidden_BTD)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        sparse = layer in config.sparse_layers
        self.mlp = SparseMLP(config) if sparse else MLP(config, config.intermediate_size)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        hidden_BTD = hidden_BTD + self.self_attn(self.input_layernorm(hidden_BTD), rotate, layout, cache)
        return hidden_BTD + self.mlp(self.post_attention_layernorm(hidden_BTD))


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(
            padded_rows(config.vocab_size), config.hidden_size, config.pad_token_id
        )
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Rope(config.rope)

    def forward(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None) -> Tensor:
        hidden_BTD = self.embed_tokens(ids_BT)
        rotate = self.rotary_emb(hidden_BTD, layout)
        for block, layer_cache in zip(self.layers, layers_of(cache, len(self.layers)), strict=True):
            hidden_BTD = block(hidden_BTD, rotate, layout, layer_cache)
        return self.norm(hidden_BTD)


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, padded_rows(config.vocab_size), bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None = None) -> Tensor:
        return self.model(ids_BT, layout, cache)

    def head(self) -> Head:
        return Head(self.lm_head.weight, self.config.vocab_size)


def weights(config: Config) -> list[Operator]:
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    operators: list[Operator] = [
        PadVocabulary(embedding, config.vocab_size),
        Tied(head, embedding) if config.tie_word_embeddings else PadVocabulary(head, config.vocab_size),
        Same("model.norm.weight"),
    ]
    for layer in range(config.num_hidden_layers):
        block = f"model.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj"):
            operators += linear(f"{block}.self_attn.{projection}", config.qkv_bias)
        operators += linear(f"{block}.self_attn.o_proj")
        if layer in config.sparse_layers:
            operators += _experts(f"{block}.mlp", config.num_experts)
            operators += _mlp(f"{block}.mlp.shared_expert")
            operators += linear(f"{block}.mlp.shared_expert_gate")
        else:
            operators += _mlp(f"{block}.mlp")
        operators += [
            Same(f"{block}.input_layernorm.weight"),
            Same(f"{block}.post_attention_layernorm.weight"),
        ]
    return operators


def _mlp(mlp: str) -> list[Operator]:
    return [Same(f"{mlp}.{name}.weight") for name in ("gate_proj", "up_proj", "down_proj")]


def _experts(mlp: str, experts: int) -> list[Operator]:
    """Checkpoints hold each expert's projections, or all of them together as transformers has them."""
    each = [f"{mlp}.experts.{expert}" for expert in range(experts)]
    gate_up, down = f"{mlp}.experts.gate_up_proj", f"{mlp}.experts.down_proj"
    pairs = tuple(f"{expert}.{name}.weight" for expert in each for name in ("gate_proj", "up_proj"))
    return [
        Same(f"{mlp}.gate.weight"),
        Either((Stack(pairs, gate_up, parts=2), Same(gate_up))),
        Either((Stack(tuple(f"{expert}.down_proj.weight" for expert in each), down), Same(down))),
    ]
