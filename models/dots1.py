"""Dots1: experts by sigmoid, beside shared ones. Reference: transformers/models/dots1/modeling_dots1.py."""

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
from ptw.ports.weights import Either, Operator, PadVocabulary, Same, Stack, Tied, Wide, linear

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Config:
    rope: RopeConfig
    layer_types: tuple[str, ...]
    sparse_layers: tuple[int, ...]  # those with experts; the others have one MLP
    groups: tuple[int | None, int | None]  # of experts, and those a token may choose from
    vocab_size: int = 152064
    hidden_size: int = 4608
    intermediate_size: int = 10944
    moe_intermediate_size: int = 1408
    num_hidden_layers: int = 62
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 144
    n_routed_experts: int | None = None
    n_shared_experts: int | None = None
    num_experts_per_tok: int | None = None
    norm_topk_prob: bool | None = False
    routed_scaling_factor: float = 1.0
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    sliding_window: int | None = 4096
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        width = values.get("head_dim") or values.get("hidden_size", cls.hidden_size) // heads
        positions = values.get("max_position_embeddings", cls.max_position_embeddings)
        layers = values.get("num_hidden_layers", cls.num_hidden_layers)
        config = read_config(
            cls,
            values,
            derived={
                "head_dim": width,
                "num_key_value_heads": values.get("num_key_value_heads", cls.num_key_value_heads) or heads,
                "n_routed_experts": values.get("num_local_experts", values.get("n_routed_experts")),
                "layer_types": _layer_types(values, layers, values.get("sliding_window", cls.sliding_window)),
                "sparse_layers": _sparse_layers(values, layers),
                "groups": (values.get("n_group", 1), values.get("topk_group", 1)),
                "rope": RopeConfig.from_hf(values, width, positions),
                "pad_token_id": padding_id(
                    values.get("pad_token_id"), values.get("vocab_size", cls.vocab_size)
                ),
            },
            choices={"hidden_act": ACTIVATIONS},
            consumed=(
                *CONFIG_KEYS,
                "first_k_dense_replace",
                "max_window_layers",
                "n_group",
                "num_local_experts",
                "output_router_logits",
                "topk_group",
            ),
        )
        if config.sparse_layers:
            _check_experts(config)
        return config

    @property
    def experts(self) -> int:
        """Of a layer that has any."""
        return self.n_routed_experts or 0

    @property
    def shared_experts(self) -> int:
        return self.n_shared_experts or 0


def _layer_types(values: dict[str, Any], layers: int, window: int | None) -> tuple[str, ...]:
    types, first = values.get("layer_types"), values.get("max_window_layers", 62)
    if types is None:
        if window is not None and first is None:
            raise PtwError("config.json: max_window_layers = null, but there is a sliding_window")
        return tuple(SLIDING if window is not None and layer >= first else FULL for layer in range(layers))
    if len(types) != layers:
        raise PtwError(f"config.json: {len(types)} layer_types, but num_hidden_layers = {layers}")
    for kind in types:
        if kind not in (FULL, SLIDING):
            raise PtwError(f"config.json: layer_types has {kind!r}, which is not implemented")
        if kind == SLIDING and window is None:
            raise PtwError(f"config.json: layer_types has {kind!r}, but sliding_window = null")
    return tuple(types)


def _sparse_layers(values: dict[str, Any], layers: int) -> tuple[int, ...]:
    dense = values.get("first_k_dense_replace", 0)
    if dense is None:
        raise PtwError("config.json: first_k_dense_replace = null says not which layers have experts")
    return tuple(layer for layer in range(layers) if layer >= dense)


def _check_experts(config: Config) -> None:
    """PtwError names what leaves the layers with experts without a meaning."""
    experts, chosen = config.n_routed_experts, config.num_experts_per_tok
    groups, kept = config.groups
    if experts is None or chosen is None or config.n_shared_experts is None:
        raise PtwError(
            "config.json: layers with experts need n_routed_experts, n_shared_experts, num_experts_per_tok"
        )
    if groups is None or kept is None:
        raise PtwError("config.json: layers with experts need n_group and topk_group")
    if groups < 1 or experts % groups or experts < 2 * groups:
        raise PtwError(
            f"config.json: n_group = {groups}, but n_routed_experts = {experts} make no equal groups of two"
            " or more"
        )
    if not 0 <= kept <= groups:
        raise PtwError(f"config.json: topk_group = {kept}, but n_group = {groups}")
    if chosen > experts:
        raise PtwError(f"config.json: num_experts_per_tok = {chosen}, but n_routed_experts = {experts}")


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
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(
        self, hidden_BTD: Tensor, rotate: Rotation, layout: Layout, cache: LayerCache | None
    ) -> Tensor:
        heads = (*hidden_BTD.shape[:2], -1, self.head_dim)
        query_BTNH = rotate(self.q_norm(self.q_proj(hidden_BTD).view(heads)))
        key_BTKH = rotate(self.k_norm(self.k_proj(hidden_BTD).view(heads)))
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

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(hidden_BTD)) * self.up_proj(hidden_BTD))


class Router(nn.Module):
    """Each token's experts, of its best groups, and their weights: a bias moves the choice only."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.experts, config.hidden_size))
        self.e_score_correction_bias = nn.Parameter(torch.zeros(config.experts), requires_grad=False)
        self.groups, self.kept = config.groups
        self.chosen = config.num_experts_per_tok
        self.renormalised = config.norm_topk_prob
        self.scale = config.routed_scaling_factor

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        score_TE = functional.linear(hidden_TD.float(), self.weight.float()).sigmoid()
        grouped_TGE = (score_TE + self.e_score_correction_bias).unflatten(-1, (self.groups, -1))
        group_TG = grouped_TGE.topk(2, dim=-1)[0].sum(dim=-1)
        best_TK = group_TG.topk(self.kept, dim=-1, sorted=False)[1]
        dropped_TG = torch.ones_like(group_TG).scatter(1, best_TK, 0.0).bool()
        choice_TE = grouped_TGE.masked_fill(dropped_TG.unsqueeze(-1), -torch.inf).flatten(1)
        expert_TK = choice_TE.topk(self.chosen, dim=-1, sorted=False)[1]
        weight_TK = score_TE.gather(1, expert_TK)
        if self.renormalised:
            weight_TK = weight_TK / (weight_TK.sum(dim=-1, keepdim=True) + 1e-20)
        return weight_TK * self.scale, expert_TK


class Experts(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        experts, width, inner = config.experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))
        self.experts = experts
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_TD: Tensor, expert_TK: Tensor, weight_TK: Tensor) -> Tensor:
        groups = Groups.of(expert_TK, self.experts)
        gate, up = grouped_linear(groups.rows(hidden_TD), self.gate_up_proj, groups).chunk(2, dim=-1)
        out = grouped_linear(self.activation(gate) * up, self.down_proj, groups)
        return groups.sum(out.float(), weight_TK).to(hidden_TD.dtype)


class SparseMLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = MLP(config, config.moe_intermediate_size * config.shared_experts)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        hidden_TD = hidden_BTD.flatten(0, 1)
        weight_TK, expert_TK = self.gate(hidden_TD)
        routed_BTD = self.experts(hidden_TD, expert_TK, weight_TK).view_as(hidden_BTD)
        return routed_BTD + self.shared_experts(hidden_BTD)


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
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            operators += linear(f"{block}.self_attn.{projection}", config.attention_bias)
        if layer in config.sparse_layers:
            operators += _experts(f"{block}.mlp", config.experts)
            operators += _mlp(f"{block}.mlp.shared_experts")
        else:
            operators += _mlp(f"{block}.mlp")
        operators += [Same(f"{block}.self_attn.q_norm.weight"), Same(f"{block}.self_attn.k_norm.weight")]
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
        Wide(Same(f"{mlp}.gate.e_score_correction_bias")),
        Either((Stack(pairs, gate_up, parts=2), Same(gate_up))),
        Either((Stack(tuple(f"{expert}.down_proj.weight" for expert in each), down), Same(down))),
    ]
