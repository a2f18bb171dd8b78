"""Ministral3: queries grow with the logarithm of their position, in steps of the pre-training's context.

Reference: transformers/models/ministral3/modeling_ministral3.py."""

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
from ptw.nn.rope import CONFIG_KEYS, KEYS, WITH_ORIGINAL, Rope, RopeConfig, Rotation
from ptw.ports.weights import Absent, Operator, PadVocabulary, Same, Tied, linear

ROPE_PARAMETERS = (
    ("rope_type", "yarn"),
    ("rope_theta", 1000000.0),
    ("factor", 16.0),
    ("original_max_position_embeddings", 16384),
    ("beta_fast", 32.0),
    ("beta_slow", 1.0),
    ("mscale_all_dim", 1.0),
    ("mscale", 1.0),
    ("llama_4_scaling_beta", 0.1),
)
BESIDE_ROPE = ("llama_4_scaling_beta", "max_position_embeddings", "original_max_position_embeddings")


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    scaling_beta: float
    scaling_context: int
    vocab_size: int = 131072
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 34
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 262144
    rms_norm_eps: float = 1e-05
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 11

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        width = values.get("head_dim", cls.head_dim) or values.get("hidden_size", cls.hidden_size) // heads
        positions = values.get("max_position_embeddings", cls.max_position_embeddings)
        parameters = values.get("rope_scaling") or values.get("rope_parameters")
        if parameters is None:
            parameters = dict(ROPE_PARAMETERS)
        rope_type = parameters.get("rope_type", parameters.get("type", "default"))
        beta = parameters.get("llama_4_scaling_beta")
        context = parameters.get("original_max_position_embeddings")
        if rope_type in WITH_ORIGINAL:
            context = values.get("original_max_position_embeddings") or context or positions
        if beta is None:
            raise PtwError("config.json: rope_parameters.llama_4_scaling_beta is missing")
        if context is None:
            raise PtwError("config.json: rope_parameters.original_max_position_embeddings is missing")
        unread = set(BESIDE_ROPE) - KEYS.get(rope_type, set())
        turning = {key: parameters[key] for key in parameters if key not in unread}
        return read_config(
            cls,
            values,
            derived={
                "head_dim": width,
                "num_key_value_heads": values.get("num_key_value_heads", cls.num_key_value_heads) or heads,
                "rope": RopeConfig.from_hf(
                    {**values, "rope_parameters": turning, "rope_scaling": None}, width, positions
                ),
                "scaling_beta": beta,
                "scaling_context": context,
                "pad_token_id": padding_id(
                    values.get("pad_token_id", cls.pad_token_id), values.get("vocab_size", cls.vocab_size)
                ),
            },
            choices={"hidden_act": ACTIVATIONS},
            consumed=CONFIG_KEYS,
        )


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.sliding_window
        queries, keys = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(
        self,
        hidden_BTD: Tensor,
        rotate: Rotation,
        growth_BT11: Tensor,
        layout: Layout,
        cache: LayerCache | None,
    ) -> Tensor:
        heads = (*hidden_BTD.shape[:2], -1, self.head_dim)
        query_BTNH = rotate(self.q_proj(hidden_BTD).view(heads)) * growth_BT11
        key_BTKH = rotate(self.k_proj(hidden_BTD).view(heads))
        value_BTKH = self.v_proj(hidden_BTD).view(heads)
        attended = attend(
            query_BTNH, key_BTKH, value_BTKH, layout, cache, scale=self.head_dim**-0.5, window=self.window
        )
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
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_BTD: Tensor,
        rotate: Rotation,
        growth_BT11: Tensor,
        layout: Layout,
        cache: LayerCache | None,
    ) -> Tensor:
        normed_BTD = self.input_layernorm(hidden_BTD)
        hidden_BTD = hidden_BTD + self.self_attn(normed_BTD, rotate, growth_BT11, layout, cache)
        return hidden_BTD + self.mlp(self.post_attention_layernorm(hidden_BTD))


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.beta = config.scaling_beta
        self.context = config.scaling_context
        self.embed_tokens = nn.Embedding(
            padded_rows(config.vocab_size), config.hidden_size, config.pad_token_id
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Rope(config.rope)

    def forward(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None) -> Tensor:
        hidden_BTD = self.embed_tokens(ids_BT)
        rotate = self.rotary_emb(hidden_BTD, layout)
        growth_BT = 1 + self.beta * (1 + layout.positions_BT // self.context).log()
        growth_BT11 = growth_BT[..., None, None].to(hidden_BTD.dtype)
        for block, layer_cache in zip(self.layers, layers_of(cache, len(self.layers)), strict=True):
            hidden_BTD = block(hidden_BTD, rotate, growth_BT11, layout, layer_cache)
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
            operators += linear(f"{block}.self_attn.{projection}")
        for projection in ("gate_proj", "up_proj", "down_proj"):
            operators += linear(f"{block}.mlp.{projection}")
        operators += [
            Same(f"{block}.input_layernorm.weight"),
            Same(f"{block}.post_attention_layernorm.weight"),
        ]
        operators.append(Absent(f"{block}.self_attn.rotary_emb.inv_freq"))  # a buffer in old checkpoints
    return operators
