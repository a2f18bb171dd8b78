"""MiniMax-M2. Reference: transformers/models/minimax_m2/modeling_minimax_m2.py."""

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
from ptw.ports.weights import Either, Operator, PadVocabulary, Rename, Same, Stack, Tied, linear


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    vocab_size: int = 200064
    hidden_size: int = 3072
    intermediate_size: int = 1536
    num_hidden_layers: int = 62
    num_attention_heads: int = 48
    num_key_value_heads: int = 8
    head_dim: int = 128
    num_local_experts: int = 256
    num_experts_per_tok: int = 8
    hidden_act: str = "silu"
    max_position_embeddings: int = 196608
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        experts = values.get("num_experts", values.get("num_local_experts", cls.num_local_experts))
        chosen = values.get("num_experts_per_tok", cls.num_experts_per_tok)
        if chosen > experts:
            raise PtwError(
                f"config.json: num_experts_per_tok = {chosen}, but there are num_local_experts = {experts}"
            )
        return read_config(
            cls,
            values,
            derived={
                "num_local_experts": experts,
                "rope": _rope(
                    values,
                    values.get("head_dim", cls.head_dim),
                    values.get("max_position_embeddings", cls.max_position_embeddings),
                ),
                "pad_token_id": padding_id(
                    values.get("pad_token_id"), values.get("vocab_size", cls.vocab_size)
                ),
            },
            choices={
                "hidden_act": ACTIVATIONS,
                "output_router_logits": (False,),
                "router_jitter_noise": (0.0,),
            },
            consumed=(
                *CONFIG_KEYS,
                "num_experts",
                "partial_rotary_factor",
                "rotary_dim",
                "router_aux_loss_coef",
            ),
        )


def _rope(values: dict[str, Any], width: int, positions: int) -> RopeConfig:
    """Of a head's first part, whose width released checkpoints give as `rotary_dim`."""
    rotary = values.get("rotary_dim")
    parameters = {
        "rope_theta": values.get("rope_theta", 5000000.0),
        "partial_rotary_factor": values.get(
            "partial_rotary_factor", 1.0 if rotary is None else rotary / width
        ),
        **(values.get("rope_scaling") or values.get("rope_parameters") or {}),
    }
    original = values.get("original_max_position_embeddings")
    return RopeConfig.of_parameters(parameters, width, positions, original=original, partial=True)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries, keys = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(queries, config.rms_norm_eps)
        self.k_norm = RMSNorm(keys, config.rms_norm_eps)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        heads = (*hidden_BTD.shape[:2], -1, self.head_dim)
        query_BTNH = rotate(self.q_norm(self.q_proj(hidden_BTD)).view(heads))
        key_BTKH = rotate(self.k_norm(self.k_proj(hidden_BTD)).view(heads))
        value_BTKH = self.v_proj(hidden_BTD).view(heads)
        attended = attend(query_BTNH, key_BTKH, value_BTKH, layout, cache, scale=self.head_dim**-0.5)
        return self.o_proj(attended.flatten(2))


class Router(nn.Module):
    """Each token's experts, chosen with a bias, and their shares of the sum of their sigmoids, in fp32."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_local_experts, config.hidden_size))
        self.chosen = config.num_experts_per_tok

    def forward(self, hidden_TD: Tensor, bias_E: Tensor) -> tuple[Tensor, Tensor]:
        score_TE = functional.linear(hidden_TD, self.weight).float().sigmoid()
        _, expert_TK = (score_TE + bias_E).topk(self.chosen, dim=-1, sorted=False)
        share_TK = score_TE.gather(1, expert_TK)
        return share_TK / share_TK.sum(dim=-1, keepdim=True), expert_TK


class Experts(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        experts, width, inner = config.num_local_experts, config.hidden_size, config.intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))
        self.experts = experts
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_TD: Tensor, expert_TK: Tensor, share_TK: Tensor) -> Tensor:
        groups = Groups.of(expert_TK, self.experts)
        gate, up = grouped_linear(groups.rows(hidden_TD), self.gate_up_proj, groups).chunk(2, dim=-1)
        out = grouped_linear(self.activation(gate) * up, self.down_proj, groups)
        return groups.sum(out.float(), share_TK).to(out.dtype)


class SparseMLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.e_score_correction_bias = nn.Parameter(
            torch.zeros(config.num_local_experts), requires_grad=False
        )

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        hidden_TD = hidden_BTD.flatten(0, 1)
        share_TK, expert_TK = self.gate(hidden_TD, self.e_score_correction_bias)
        return self.experts(hidden_TD, expert_TK, share_TK).view_as(hidden_BTD)


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
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
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            operators += linear(f"{block}.self_attn.{projection}")
        operators += _experts(block, config.num_local_experts)
        operators += [
            Same(f"{block}.self_attn.q_norm.weight"),
            Same(f"{block}.self_attn.k_norm.weight"),
            Same(f"{block}.input_layernorm.weight"),
            Same(f"{block}.post_attention_layernorm.weight"),
        ]
    return operators


def _experts(block: str, experts: int) -> list[Operator]:
    """Checkpoints hold each expert's projections, or all of them together as transformers has them."""
    sparse, mlp = f"{block}.block_sparse_moe", f"{block}.mlp"
    each = [f"{sparse}.experts.{expert}" for expert in range(experts)]
    gate, gate_up, down = f"{mlp}.gate.weight", f"{mlp}.experts.gate_up_proj", f"{mlp}.experts.down_proj"
    bias = "e_score_correction_bias"
    pairs = tuple(f"{expert}.{name}.weight" for expert in each for name in ("w1", "w3"))
    return [
        Either((Rename(f"{sparse}.gate.weight", gate), Same(gate))),
        Either((Rename(f"{sparse}.{bias}", f"{mlp}.{bias}"), Same(f"{mlp}.{bias}"))),
        Either((Stack(pairs, gate_up, parts=2), Same(gate_up))),
        Either((Stack(tuple(f"{expert}.w2.weight" for expert in each), down), Same(down))),
    ]
