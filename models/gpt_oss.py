"""gpt-oss. Reference: transformers/models/gpt_oss/modeling_gpt_oss.py."""

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
from ptw.nn.rope import CONFIG_KEYS, Rope, RopeConfig, Rotation
from ptw.ports.weights import Operator, PadVocabulary, Same, Tied, linear

FULL, SLIDING = "full_attention", "sliding_attention"
THETA = 150_000.0


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    layer_types: tuple[str, ...]
    vocab_size: int = 201088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_hidden_layers: int = 36
    num_attention_heads: int = 64
    num_key_value_heads: int = 8
    head_dim: int = 64
    num_local_experts: int = 128
    num_experts_per_tok: int = 4
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    attention_bias: bool = True
    sliding_window: int | None = 128
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        width = values.get("head_dim", cls.head_dim) or values.get("hidden_size", cls.hidden_size) // heads
        positions = values.get("max_position_embeddings", cls.max_position_embeddings)
        experts = values.get("num_local_experts", values.get("num_experts", cls.num_local_experts))
        chosen = values.get("num_experts_per_tok", cls.num_experts_per_tok)
        if chosen > experts:
            raise PtwError(
                f"config.json: num_experts_per_tok = {chosen}, but there are num_local_experts = {experts}"
            )
        return read_config(
            cls,
            values,
            derived={
                "head_dim": width,
                "num_key_value_heads": values.get("num_key_value_heads", cls.num_key_value_heads) or heads,
                "num_local_experts": experts,
                "layer_types": _layer_types(values, values.get("num_hidden_layers", cls.num_hidden_layers)),
                "rope": RopeConfig.from_hf(_with_rope(values), width, positions, THETA),
                "pad_token_id": padding_id(
                    values.get("pad_token_id"), values.get("vocab_size", cls.vocab_size)
                ),
            },
            # the experts have their own activation, whatever config.json says
            choices={"hidden_act": ACTIVATIONS, "output_router_logits": (False, None)},
            consumed=(
                *CONFIG_KEYS,
                "experts_per_token",  # this and the context stand in the published file, and are not read
                "initial_context_length",
                "num_experts",
                "router_aux_loss_coef",
            ),
        )


def _layer_types(values: dict[str, Any], layers: int) -> tuple[str, ...]:
    """As listed, else a window in every second layer, the first among them."""
    listed = values.get("layer_types") or [FULL if layer % 2 else SLIDING for layer in range(layers)]
    if len(listed) < layers or not set(listed) <= {FULL, SLIDING}:
        raise PtwError(
            f"config.json: layer_types = {listed!r}: it needs {layers} entries of {FULL!r} and {SLIDING!r}"
        )
    if SLIDING in listed[:layers] and values.get("sliding_window", Config.sliding_window) is None:
        raise PtwError(f"config.json: sliding_window is null, but layer_types has {SLIDING!r}")
    return tuple(listed[:layers])


def _with_rope(values: dict[str, Any]) -> dict[str, Any]:
    """What the family has where config.json says nothing of its RoPE."""
    if values.get("rope_parameters") or values.get("rope_scaling"):
        return values
    yarn = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    return values | {"rope_parameters": yarn | {"original_max_position_embeddings": 4096}}


class RMSNorm(nn.Module):
    """Root mean square norm, in fp32 with its weight, and rounded last."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * wide).to(hidden.dtype)


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.sliding_window if config.layer_types[layer] == SLIDING else None
        queries, keys = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.attention_bias)
        self.sinks = nn.Parameter(torch.empty(config.num_attention_heads))

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        heads = (*hidden_BTD.shape[:2], -1, self.head_dim)
        query_BTNH = rotate(self.q_proj(hidden_BTD).view(heads))
        key_BTKH = rotate(self.k_proj(hidden_BTD).view(heads))
        value_BTKH = self.v_proj(hidden_BTD).view(heads)
        attended = attend(
            query_BTNH,
            key_BTKH,
            value_BTKH,
            layout,
            cache,
            scale=self.head_dim**-0.5,
            window=self.window,
            sinks_N=self.sinks,
        )
        return self.o_proj(attended.flatten(2))


class Router(nn.Module):
    """Each token's experts, and their shares of the softmax over those that it chose."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_local_experts, config.hidden_size))
        self.bias = nn.Parameter(torch.empty(config.num_local_experts))
        self.chosen = config.num_experts_per_tok

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        logits_TE = functional.linear(hidden_TD, self.weight, self.bias)
        logits_TK, expert_TK = logits_TE.topk(self.chosen, dim=-1)
        return logits_TK.softmax(dim=-1), expert_TK


class Experts(nn.Module):
    """Gates and values alternate in the projection up; both are clamped before they meet."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        experts, width, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, width, 2 * inner))
        self.gate_up_proj_bias = nn.Parameter(torch.empty(experts, 2 * inner))
        self.down_proj = nn.Parameter(torch.empty(experts, inner, width))
        self.down_proj_bias = nn.Parameter(torch.empty(experts, width))
        self.experts = experts
        self.alpha = config.swiglu_alpha
        self.limit = config.swiglu_limit

    def forward(self, hidden_TD: Tensor, expert_TK: Tensor, share_TK: Tensor) -> Tensor:
        groups = Groups.of(expert_TK, self.experts)
        rows, up_EOI = groups.rows(hidden_TD), self.gate_up_proj.transpose(1, 2)
        gate_up = grouped_linear(rows, up_EOI, groups, self.gate_up_proj_bias)
        gated, down_EOI = self.gated(gate_up), self.down_proj.transpose(1, 2)
        return groups.sum(grouped_linear(gated, down_EOI, groups, self.down_proj_bias), share_TK)

    def gated(self, gate_up: Tensor) -> Tensor:
        gate = gate_up[..., ::2].clamp(max=self.limit)
        up = gate_up[..., 1::2].clamp(min=-self.limit, max=self.limit)
        return (up + 1) * (gate * torch.sigmoid(gate * self.alpha))


class SparseMLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.router = Router(config)
        self.experts = Experts(config)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        hidden_TD = hidden_BTD.flatten(0, 1)
        share_TK, expert_TK = self.router(hidden_TD)
        return self.experts(hidden_TD, expert_TK, share_TK).view_as(hidden_BTD)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = SparseMLP(config)
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
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            operators += linear(f"{block}.self_attn.{projection}", config.attention_bias)
        operators += [Same(f"{block}.self_attn.sinks"), *linear(f"{block}.mlp.router", bias=True)]
        for projection in ("gate_up_proj", "down_proj"):
            operators += [
                Same(f"{block}.mlp.experts.{projection}"),
                Same(f"{block}.mlp.experts.{projection}_bias"),
            ]
        operators += [
            Same(f"{block}.input_layernorm.weight"),
            Same(f"{block}.post_attention_layernorm.weight"),
        ]
    return operators
