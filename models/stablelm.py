"""StableLM. Reference: transformers/models/stablelm/modeling_stablelm.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptw.nn.activation import ACTIVATIONS
from ptw.nn.attention import attend
from ptw.nn.cache import KVCache, LayerCache, layers_of
from ptw.nn.config import padding_id, read_config
from ptw.nn.head import Head, padded_rows
from ptw.nn.layout import Layout
from ptw.nn.rope import CONFIG_KEYS, Rope, RopeConfig, Rotation
from ptw.ports.weights import Operator, PadVocabulary, Same, Tied, linear


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    vocab_size: int = 50304
    hidden_size: int = 2560
    intermediate_size: int = 6912
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    layer_norm_eps: float = 1e-5
    use_qkv_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        rope = {
            "rope_theta": values.get("rope_theta", 10000.0),
            "partial_rotary_factor": values.get("partial_rotary_factor", 0.25),
            **(values.get("rope_scaling") or values.get("rope_parameters") or {}),
        }
        return read_config(
            cls,
            values,
            derived={
                "rope": RopeConfig.of_parameters(
                    rope,
                    values.get("hidden_size", cls.hidden_size) // heads,
                    values.get("max_position_embeddings", cls.max_position_embeddings),
                    original=values.get("original_max_position_embeddings"),
                    partial=True,
                ),
                "pad_token_id": padding_id(
                    values.get("pad_token_id"), values.get("vocab_size", cls.vocab_size)
                ),
            },
            choices={"hidden_act": ACTIVATIONS},
            consumed=(*CONFIG_KEYS, "partial_rotary_factor"),
        )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class LayerNormPerHead(nn.Module):
    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=eps, bias=False) for _ in range(heads))

    def forward(self, heads_BTNH: Tensor) -> Tensor:
        heads = zip(self.norms, heads_BTNH.unbind(2), strict=True)
        return torch.stack([norm(head_BTH) for norm, head_BTH in heads], dim=2)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries, keys = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.use_qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.use_qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.use_qkv_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.q_layernorm: nn.Module = nn.Identity()
        self.k_layernorm: nn.Module = nn.Identity()
        if config.qk_layernorm:
            self.q_layernorm = LayerNormPerHead(
                config.head_dim, config.num_attention_heads, config.layer_norm_eps
            )
            self.k_layernorm = LayerNormPerHead(
                config.head_dim, config.num_key_value_heads, config.layer_norm_eps
            )

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        heads = (*hidden_BTD.shape[:2], -1, self.head_dim)
        query_BTNH = rotate(self.q_layernorm(self.q_proj(hidden_BTD).view(heads)))
        key_BTKH = rotate(self.k_layernorm(self.k_proj(hidden_BTD).view(heads)))
        value_BTKH = self.v_proj(hidden_BTD).view(heads)
        attended = attend(query_BTNH, key_BTKH, value_BTKH, layout, cache, scale=self.head_dim**-0.5)
        return self.o_proj(attended.flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(hidden_BTD)) * self.up_proj(hidden_BTD))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.parallel = config.use_parallel_residual
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if not self.parallel:
            self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        normed_BTD = self.input_layernorm(hidden_BTD)
        hidden_BTD = hidden_BTD + self.self_attn(normed_BTD, rotate, layout, cache)
        if not self.parallel:
            normed_BTD = self.post_attention_layernorm(hidden_BTD)
        return hidden_BTD + self.mlp(normed_BTD)


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(
            padded_rows(config.vocab_size), config.hidden_size, config.pad_token_id
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
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
    ]
    norms = ["model.norm"]
    for layer in range(config.num_hidden_layers):
        block = f"model.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj"):
            operators += linear(f"{block}.self_attn.{projection}", config.use_qkv_bias)
        operators += linear(f"{block}.self_attn.o_proj")
        for projection in ("gate_proj", "up_proj", "down_proj"):
            operators += linear(f"{block}.mlp.{projection}")
        norms.append(f"{block}.input_layernorm")
        if not config.use_parallel_residual:
            norms.append(f"{block}.post_attention_layernorm")
        if config.qk_layernorm:
            for side, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
                operators += [
                    Same(f"{block}.self_attn.{side}_layernorm.norms.{index}.weight") for index in range(heads)
                ]
    for norm in norms:
        operators += [Same(f"{norm}.weight"), Same(f"{norm}.bias")]
    return operators
