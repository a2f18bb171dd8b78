"""NanoChat. Reference: transformers/models/nanochat/modeling_nanochat.py."""

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
from ptw.ports.weights import Operator, PadVocabulary, Tied, linear


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    vocab_size: int = 50304
    hidden_size: int = 768
    intermediate_size: int = 8192
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    num_key_value_heads: int = 6
    head_dim: int = 128
    hidden_act: str = "relu2"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float | None = 15.0
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 1

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        width = values.get("head_dim") or values.get("hidden_size", cls.hidden_size) // heads
        positions = values.get("max_position_embeddings", cls.max_position_embeddings)
        return read_config(
            cls,
            values,
            derived={
                "head_dim": width,
                "num_key_value_heads": values.get("num_key_value_heads") or heads,
                "rope": RopeConfig.from_hf(values, width, positions),
                "pad_token_id": padding_id(
                    values.get("pad_token_id", cls.pad_token_id),
                    values.get("vocab_size", cls.vocab_size),
                ),
            },
            choices={"hidden_act": ACTIVATIONS},
            consumed=CONFIG_KEYS,
        )


class Norm(nn.Module):
    """Root mean square norm without a weight, in fp32."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(hidden)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries, keys = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.attention_bias)
        self.q_norm = Norm(config.rms_norm_eps)
        self.k_norm = Norm(config.rms_norm_eps)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        heads = (*hidden_BTD.shape[:2], -1, self.head_dim)
        query_BTNH = self.q_norm(rotate(self.q_proj(hidden_BTD).view(heads)))
        key_BTKH = self.k_norm(rotate(self.k_proj(hidden_BTD).view(heads)))
        value_BTKH = self.v_proj(hidden_BTD).view(heads)
        attended = attend(query_BTNH, key_BTKH, value_BTKH, layout, cache, scale=self.head_dim**-0.5)
        return self.o_proj(attended.flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(hidden_BTD)))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = Norm(config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.rms_norm_eps)

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
        self.norm = Norm(config.rms_norm_eps)
        self.rotary_emb = Rope(config.rope)

    def forward(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None) -> Tensor:
        hidden_BTD = self.norm(self.embed_tokens(ids_BT))
        forwards = self.rotary_emb(hidden_BTD, layout)
        backwards = Rotation(forwards.cos, -forwards.sin)  # NanoChat turns by the negative angle
        for block, layer_cache in zip(self.layers, layers_of(cache, len(self.layers)), strict=True):
            hidden_BTD = block(hidden_BTD, backwards, layout, layer_cache)
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
    ]
    for layer in range(config.num_hidden_layers):
        block = f"model.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            operators += linear(f"{block}.self_attn.{projection}", config.attention_bias)
        for projection in ("fc1", "fc2"):
            operators += linear(f"{block}.mlp.{projection}")
    return operators
