"""Gemma 2. Reference: transformers/models/gemma2/modeling_gemma2.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.nn.activation import ACTIVATIONS
from ptw.nn.attention import attend
from ptw.nn.cache import KVCache, LayerCache, layers_of
from ptw.nn.config import padding_id, read_config
from ptw.nn.embedding import ScaledEmbedding
from ptw.nn.head import Head, padded_rows
from ptw.nn.layout import Layout
from ptw.nn.norm import CentredRMSNorm
from ptw.nn.rope import CONFIG_KEYS, Rope, RopeConfig, Rotation
from ptw.ports.weights import Operator, PadVocabulary, Same, Tied, linear

FULL, SLIDING = "full_attention", "sliding_attention"
NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    layer_types: tuple[str, ...]
    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    query_pre_attn_scalar: int = 256
    sliding_window: int | None = 4096
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        layer_types = _layer_types(values, values.get("num_hidden_layers", cls.num_hidden_layers))
        if SLIDING in layer_types and values.get("sliding_window", cls.sliding_window) is None:
            raise PtwError(f"config.json: sliding_window is null, but layer_types has {SLIDING!r}")
        width = values.get("head_dim", cls.head_dim)
        positions = values.get("max_position_embeddings", cls.max_position_embeddings)
        return read_config(
            cls,
            values,
            derived={
                "layer_types": layer_types,
                "pad_token_id": padding_id(
                    values.get("pad_token_id", cls.pad_token_id), values.get("vocab_size", cls.vocab_size)
                ),
                "rope": RopeConfig.from_hf(values, width, positions),
            },
            choices={"hidden_activation": ACTIVATIONS},
            consumed=(
                *CONFIG_KEYS,
                "use_bidirectional_attention",  # HF stores it and masks causally all the same
                "hidden_act",  # Google's files repeat hidden_activation and sliding_window so;
                "sliding_window_size",  # HF reads neither
            ),
        )


def _layer_types(values: Mapping[str, Any], layers: int) -> tuple[str, ...]:
    """As listed, else every second layer attends to all of the document."""
    listed = values.get("layer_types")
    if listed is None:
        listed = [FULL if layer % 2 else SLIDING for layer in range(layers)]
    if len(listed) != layers or not set(listed) <= {FULL, SLIDING}:
        raise PtwError(
            f"config.json: layer_types = {listed!r}: by num_hidden_layers it needs {layers!r} entries, "
            f"each {FULL!r} or {SLIDING!r}"
        )
    return tuple(listed)


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.cap = config.attn_logit_softcapping
        self.scale = config.query_pre_attn_scalar**-0.5
        self.window = config.sliding_window if config.layer_types[layer] == SLIDING else None
        queries, keys = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.attention_bias)

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
            scale=self.scale,
            window=self.window,
            cap=self.cap,
        )
        return self.o_proj(attended.flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_activation]

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(hidden_BTD)) * self.up_proj(hidden_BTD))


class Block(nn.Module):
    """Each sub-block stands between two norms: one before it, one before its sum with the residual."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.input_layernorm = CentredRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = CentredRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_feedforward_layernorm = CentredRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_feedforward_layernorm = CentredRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        attended_BTD = self.self_attn(self.input_layernorm(hidden_BTD), rotate, layout, cache)
        hidden_BTD = hidden_BTD + self.post_attention_layernorm(attended_BTD)
        mixed_BTD = self.mlp(self.pre_feedforward_layernorm(hidden_BTD))
        return hidden_BTD + self.post_feedforward_layernorm(mixed_BTD)


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = ScaledEmbedding(
            padded_rows(config.vocab_size), config.hidden_size, config.pad_token_id, config.hidden_size**0.5
        )
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = CentredRMSNorm(config.hidden_size, config.rms_norm_eps)
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
        return Head(self.lm_head.weight, self.config.vocab_size, cap=self.config.final_logit_softcapping)


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
        for projection in ("gate_proj", "up_proj", "down_proj"):
            operators += linear(f"{block}.mlp.{projection}")
        operators += [Same(f"{block}.{norm}.weight") for norm in NORMS]
    return operators
