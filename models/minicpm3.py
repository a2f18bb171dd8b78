"""MiniCPM3, with multi-head latent attention (arXiv:2405.04434) and scaled residuals (arXiv:2404.06395).

Reference: transformers/models/minicpm3/modeling_minicpm3.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.nn.activation import ACTIVATIONS
from ptw.nn.attention import attend
from ptw.nn.cache import KVCache, LayerCache, layers_of
from ptw.nn.config import padding_id, read_config
from ptw.nn.embedding import ScaledEmbedding
from ptw.nn.head import Head, padded_rows
from ptw.nn.layout import Layout
from ptw.nn.norm import RMSNorm
from ptw.nn.rope import CONFIG_KEYS, Rope, RopeConfig, Rotation
from ptw.ports.weights import Operator, PadVocabulary, Same, Tied, linear

LATENT_EPS = 1e-6  # of the norms of the latents, whatever `rms_norm_eps` says


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    sharpness: float  # the factor on attention's logits beside the usual one: YaRN's correction, squared
    vocab_size: int = 73448
    hidden_size: int = 2560
    intermediate_size: int = 6400
    num_hidden_layers: int = 62
    num_attention_heads: int = 40
    q_lora_rank: int | None = 768
    kv_lora_rank: int = 256
    qk_nope_head_dim: int = 64
    qk_rope_head_dim: int = 32
    v_head_dim: int = 64
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False
    scale_emb: float = 12
    scale_depth: float = 1.4
    dim_model_base: int = 256
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        hidden = values.get("hidden_size", cls.hidden_size)
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        keys = values.get("num_key_value_heads") or heads
        if heads // keys != 1:
            raise PtwError(
                f"config.json: num_key_value_heads = {keys}: latents give every one of {heads} heads its key"
            )
        depth = values.get("scale_depth", cls.scale_depth)
        rope, sharpness = _rope(values, values.get("qk_rope_head_dim", cls.qk_rope_head_dim))
        return read_config(
            cls,
            values,
            derived={
                "rope": rope,
                "sharpness": sharpness,
                "v_head_dim": values.get("v_head_dim") or hidden // heads,
                # null scales nothing
                "scale_depth": math.sqrt(values.get("num_hidden_layers", 62)) if depth is None else depth,
                "dim_model_base": values.get("dim_model_base", cls.dim_model_base) or hidden,
                "pad_token_id": padding_id(
                    values.get("pad_token_id"), values.get("vocab_size", cls.vocab_size)
                ),
            },
            choices={"hidden_act": ACTIVATIONS},
            consumed=(*CONFIG_KEYS, "num_key_value_heads", "head_dim", "qk_head_dim", "pretraining_tp"),
        )


def _rope(values: Mapping[str, Any], width: int) -> tuple[RopeConfig, float]:
    """The RoPE, and the square of what YaRN's `mscale_all_dim` says, which HF applies with any scaling."""
    given = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    kind = given.get("rope_type") or given.get("type") or "default"
    weight = given.get("mscale_all_dim") if kind == "yarn" else given.pop("mscale_all_dim", None)
    positions = values.get("max_position_embeddings", Config.max_position_embeddings)
    rope = RopeConfig.from_hf({**values, "rope_scaling": None, "rope_parameters": given}, width, positions)
    if kind == "default" or not weight or given["factor"] <= 1:
        return rope, 1.0
    return rope, (0.1 * weight * math.log(given["factor"]) + 1.0) ** 2


class Attention(nn.Module):
    """Multi-head latent attention: keys and values of all heads come from one small latent a token.

    A part of each head knows no positions; the part that turns with them has one key for all heads.
    The cache holds the latents and that key, as they were before they are spread over the heads.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        heads, bias = config.num_attention_heads, config.attention_bias
        self.still, self.turned = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.latent, self.value = config.kv_lora_rank, config.v_head_dim
        self.is_compressed = config.q_lora_rank is not None
        width = self.still + self.turned
        self.scale = width**-0.5 * config.sharpness
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(config.hidden_size, heads * width, bias=False)
        else:
            self.q_a_proj = nn.Linear(config.hidden_size, config.q_lora_rank, bias=bias)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_EPS)
            self.q_b_proj = nn.Linear(config.q_lora_rank, heads * width, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(config.hidden_size, self.latent + self.turned, bias=bias)
        self.kv_a_layernorm = RMSNorm(self.latent, LATENT_EPS)
        self.kv_b_proj = nn.Linear(self.latent, heads * (self.still + self.value), bias=False)
        self.o_proj = nn.Linear(heads * self.value, config.hidden_size, bias=bias)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        still, turned = self._query(hidden_BTD).split((self.still, self.turned), dim=-1)
        query_BTNH = torch.cat((still, rotate(turned)), dim=-1)
        latent_BTL, turned_BTH = self.kv_a_proj_with_mqa(hidden_BTD).split((self.latent, self.turned), dim=-1)
        latent_BS1L, turned_BS1H = self.kv_a_layernorm(latent_BTL)[:, :, None], rotate(turned_BTH[:, :, None])
        if cache is not None:
            latent_BS1L, turned_BS1H = cache.extend(latent_BS1L, turned_BS1H, layout)
        key_BSNH, value_BSNH = self._spread(latent_BS1L, turned_BS1H)
        attended = attend(query_BTNH, key_BSNH, value_BSNH, layout, scale=self.scale)
        return self.o_proj(attended.flatten(2))

    def _query(self, hidden_BTD: Tensor) -> Tensor:
        if self.is_compressed:
            query_BTE = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(hidden_BTD)))
        else:
            query_BTE = self.q_proj(hidden_BTD)
        return query_BTE.unflatten(-1, (-1, self.still + self.turned))

    def _spread(self, latent_BS1L: Tensor, turned_BS1H: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of every head."""
        spread_BSNH = self.kv_b_proj(latent_BS1L).view(*latent_BS1L.shape[:2], -1, self.still + self.value)
        still, value_BSNH = spread_BSNH.split((self.still, self.value), dim=-1)
        turned = turned_BS1H.expand(-1, -1, still.shape[2], -1)
        return torch.cat((still, turned), dim=-1), value_BSNH


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(hidden_BTD)) * self.up_proj(hidden_BTD))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.share = config.scale_depth / math.sqrt(config.num_hidden_layers)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        attended_BTD = self.self_attn(self.input_layernorm(hidden_BTD), rotate, layout, cache)
        hidden_BTD = hidden_BTD + attended_BTD * self.share
        return hidden_BTD + self.mlp(self.post_attention_layernorm(hidden_BTD)) * self.share


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = ScaledEmbedding(
            padded_rows(config.vocab_size), config.hidden_size, config.pad_token_id, config.scale_emb
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
        divisor = self.config.hidden_size / self.config.dim_model_base
        return Head(self.lm_head.weight, self.config.vocab_size, divisor)


def weights(config: Config) -> list[Operator]:
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    operators: list[Operator] = [
        PadVocabulary(embedding, config.vocab_size),
        Tied(head, embedding) if config.tie_word_embeddings else PadVocabulary(head, config.vocab_size),
        Same("model.norm.weight"),
    ]
    for layer in range(config.num_hidden_layers):
        block = f"model.layers.{layer}"
        operators += _attention(f"{block}.self_attn", config)
        for projection in ("gate_proj", "up_proj", "down_proj"):
            operators += linear(f"{block}.mlp.{projection}", config.mlp_bias)
        operators += [
            Same(f"{block}.input_layernorm.weight"),
            Same(f"{block}.post_attention_layernorm.weight"),
        ]
    return operators


def _attention(name: str, config: Config) -> list[Operator]:
    biased = ["kv_a_proj_with_mqa", "o_proj"] + ["q_a_proj"] * (config.q_lora_rank is not None)
    plain = ["kv_b_proj", "q_proj" if config.q_lora_rank is None else "q_b_proj"]
    norms = ["kv_a_layernorm"] + ["q_a_layernorm"] * (config.q_lora_rank is not None)
    operators: list[Operator] = [Same(f"{name}.{norm}.weight") for norm in norms]
    for projection in biased:
        operators += linear(f"{name}.{projection}", config.attention_bias)
    for projection in plain:
        operators += linear(f"{name}.{projection}")
    return operators
