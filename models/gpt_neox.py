"""GPT-NeoX (arXiv:2204.06745). Reference: transformers/models/gpt_neox/modeling_gpt_neox.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.nn.activation import ACTIVATIONS
from ptw.nn.attention import attend
from ptw.nn.cache import KVCache, LayerCache, layers_of
from ptw.nn.config import read_config
from ptw.nn.head import Head, padded_rows
from ptw.nn.layout import Layout
from ptw.nn.rope import CONFIG_KEYS, Rope, RopeConfig, Rotation
from ptw.ports.weights import Absent, Named, Operator, PadVocabulary, Same, Tied, linear

EMBEDDING, HEAD = "gpt_neox.embed_in.weight", "lm_head.weight"
HEAD_BEFORE = "embed_out.weight"  # as checkpoints on the Hub and transformers before 5.11 have it
OLD_BUFFERS = ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq")


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    vocab_size: int = 50432
    hidden_size: int = 6144
    intermediate_size: int = 24576
    num_hidden_layers: int = 44
    num_attention_heads: int = 64
    hidden_act: str = "gelu"
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    use_parallel_residual: bool = True
    attention_bias: bool = True
    tie_word_embeddings: bool = False

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        hidden = values.get("hidden_size", cls.hidden_size)
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        if hidden % heads:
            raise PtwError(
                f"config.json: hidden_size = {hidden} is no multiple of num_attention_heads = {heads}"
            )
        rope = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
        # the family's own names; `rope_theta` outside of the parameters is not read, nor is it by HF
        rope.setdefault("rope_theta", values.get("rotary_emb_base", 10_000.0))
        rope.setdefault("partial_rotary_factor", values.get("rotary_pct", 0.25))
        return read_config(
            cls,
            values,
            derived={
                "rope": RopeConfig.of_parameters(
                    rope,
                    hidden // heads,
                    values.get("max_position_embeddings", cls.max_position_embeddings),
                    original=values.get("original_max_position_embeddings"),
                    partial=True,
                )
            },
            choices={"hidden_act": ACTIVATIONS, "is_decoder": (False, True)},
            consumed=(*CONFIG_KEYS, "rotary_emb_base", "rotary_pct"),
        )


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.query_key_value = nn.Linear(
            config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias
        )
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        heads = (*hidden_BTD.shape[:2], -1, 3 * self.head_dim)
        # head by head: its query, its key, its value
        query_BTNH, key_BTNH, value_BTNH = self.query_key_value(hidden_BTD).view(heads).chunk(3, dim=-1)
        attended = attend(
            rotate(query_BTNH), rotate(key_BTNH), value_BTNH, layout, cache, scale=self.head_dim**-0.5
        )
        return self.dense(attended.flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(hidden_BTD)))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.is_parallel = config.use_parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention = Attention(config)
        self.mlp = MLP(config)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        attended_BTD = self.attention(self.input_layernorm(hidden_BTD), rotate, layout, cache)
        if self.is_parallel:
            mixed_BTD = self.mlp(self.post_attention_layernorm(hidden_BTD))
            return mixed_BTD + attended_BTD + hidden_BTD
        hidden_BTD = attended_BTD + hidden_BTD
        return self.mlp(self.post_attention_layernorm(hidden_BTD)) + hidden_BTD


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_in = nn.Embedding(padded_rows(config.vocab_size), config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.rotary_emb = Rope(config.rope)

    def forward(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None) -> Tensor:
        hidden_BTD = self.embed_in(ids_BT)
        rotate = self.rotary_emb(hidden_BTD, layout)
        for block, layer_cache in zip(self.layers, layers_of(cache, len(self.layers)), strict=True):
            hidden_BTD = block(hidden_BTD, rotate, layout, layer_cache)
        return self.final_layer_norm(hidden_BTD)


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.gpt_neox = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, padded_rows(config.vocab_size), bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.gpt_neox.embed_in.weight

    def forward(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None = None) -> Tensor:
        return self.gpt_neox(ids_BT, layout, cache)

    def head(self) -> Head:
        return Head(self.lm_head.weight, self.config.vocab_size)


def weights(config: Config) -> list[Operator]:
    operators: list[Operator] = [PadVocabulary(EMBEDDING, config.vocab_size)]
    if config.tie_word_embeddings:
        operators += [Tied(HEAD, EMBEDDING), Tied(HEAD_BEFORE, EMBEDDING)]
    else:
        operators.append(Named(PadVocabulary(HEAD, config.vocab_size), (HEAD, HEAD_BEFORE)))
    operators += _norm("gpt_neox.final_layer_norm")
    for layer in range(config.num_hidden_layers):
        block = f"gpt_neox.layers.{layer}"
        operators += _norm(f"{block}.input_layernorm") + _norm(f"{block}.post_attention_layernorm")
        for projection in ("query_key_value", "dense"):
            operators += linear(f"{block}.attention.{projection}", config.attention_bias)
        for projection in ("dense_h_to_4h", "dense_4h_to_h"):
            operators += linear(f"{block}.mlp.{projection}", bias=True)
        operators += [Absent(f"{block}.{buffer}") for buffer in OLD_BUFFERS]
    return operators


def _norm(name: str) -> list[Operator]:
    return [Same(f"{name}.weight"), Same(f"{name}.bias")]
