"""Phi3: one projection makes queries, keys and values, and one the MLP's gate and values; RoPE may be long.

Reference: transformers/models/phi3/modeling_phi3.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.nn.activation import ACTIVATIONS
from ptw.nn.attention import attend
from ptw.nn.cache import KVCache, LayerCache, layers_of
from ptw.nn.config import padding_id, read_config
from ptw.nn.head import Head, padded_rows
from ptw.nn.layout import Layout
from ptw.nn.norm import RMSNorm
from ptw.nn.rope import CONFIG_KEYS, Rope, RopeConfig, Rotation
from ptw.ports.weights import Operator, PadVocabulary, Same, Tied, linear

LONGROPE = ("longrope", "su", "yarn")  # what older checkpoints of this family call it, too
ORIGINAL_POSITIONS = 4096


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 96
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 32000

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        width = values.get("head_dim") or values.get("hidden_size", cls.hidden_size) // heads
        positions = values.get("max_position_embeddings", cls.max_position_embeddings)
        parameters = values.get("rope_scaling") or values.get("rope_parameters") or {}
        rope_type = parameters.get("rope_type", parameters.get("type", "default"))
        if rope_type not in ("default", *LONGROPE):
            raise PtwError(f"config.json: rope_parameters.rope_type {rope_type} is none of this family's")
        turning = {
            **values,
            "rope_scaling": None,
            "rope_parameters": {
                **parameters,
                "rope_type": "longrope" if rope_type in LONGROPE else "default",
            },
            "original_max_position_embeddings": values.get(
                "original_max_position_embeddings", ORIGINAL_POSITIONS
            ),
        }
        return read_config(
            cls,
            values,
            derived={
                "head_dim": width,
                "num_key_value_heads": values.get("num_key_value_heads") or heads,
                "rope": RopeConfig.from_hf(turning, width, positions, partial=True),
                "pad_token_id": padding_id(
                    values.get("pad_token_id", cls.pad_token_id), values.get("vocab_size", cls.vocab_size)
                ),
            },
            choices={"hidden_act": ACTIVATIONS},
            consumed=(*CONFIG_KEYS, "partial_rotary_factor"),
        )


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.sliding_window
        self.heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        self.qkv_proj = nn.Linear(config.hidden_size, sum(self.heads) * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        heads_BTNH = self.qkv_proj(hidden_BTD).unflatten(-1, (-1, self.head_dim))
        query_BTNH, key_BTKH, value_BTKH = heads_BTNH.split(self.heads, dim=2)
        attended = attend(
            rotate(query_BTNH),
            rotate(key_BTKH),
            value_BTKH,
            layout,
            cache,
            scale=self.head_dim**-0.5,
            window=self.window,
        )
        return self.o_proj(attended.flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up_proj(hidden_BTD).chunk(2, dim=-1)
        return self.down_proj(up_BTF * self.activation(gate_BTF))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
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
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
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
        for projection in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"):
            operators += linear(f"{block}.{projection}")
        operators += [
            Same(f"{block}.input_layernorm.weight"),
            Same(f"{block}.post_attention_layernorm.weight"),
        ]
    return operators
