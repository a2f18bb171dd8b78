"""GPT-2. Reference: transformers/models/gpt2/modeling_gpt2.py."""

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
from ptw.nn.layout import PADDING, Layout
from ptw.ports.weights import Absent, Named, Operator, PadVocabulary, Same, Tied, Transpose

BASE = "transformer."  # checkpoints of the model without its head, OpenAI's own among them, leave it out
EMBEDDING, HEAD = f"{BASE}wte.weight", "lm_head.weight"
OLD_BUFFERS = ("bias", "masked_bias")
NAMES = (
    ("n_embd", "hidden_size"),
    ("n_positions", "max_position_embeddings"),
    ("n_head", "num_attention_heads"),
    ("n_layer", "num_hidden_layers"),
)
UNREAD = ("n_ctx", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels")


@dataclass(frozen=True)
class Config:
    vocab_size: int = 50257
    hidden_size: int = 768
    n_inner: int | None = None
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    activation_function: str = "gelu_new"
    max_position_embeddings: int = 1024
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    @classmethod
    def from_hf(cls, values: dict[str, Any]) -> Config:
        own = {name: values[old] for old, name in NAMES if old in values}
        values = own | {key: value for key, value in values.items() if key not in dict(NAMES)}
        hidden = values.get("hidden_size", cls.hidden_size)
        heads = values.get("num_attention_heads", cls.num_attention_heads)
        if hidden % heads:
            raise PtwError(f"config.json: n_embd = {hidden} is no multiple of n_head = {heads}")
        return read_config(
            cls,
            values,
            derived={},
            choices={
                "activation_function": ACTIVATIONS,
                "is_encoder_decoder": (False, True),
                "reorder_and_upcast_attn": (False,),
            },
            consumed=UNREAD,
        )


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.width = config.hidden_size
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scale = self.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_BTD: Tensor, layout: Layout, cache: LayerCache | None) -> Tensor:
        heads = (*hidden_BTD.shape[:2], -1, self.head_dim)
        query_BTD, key_BTD, value_BTD = self.c_attn(hidden_BTD).split(self.width, dim=-1)
        attended = attend(
            query_BTD.view(heads), key_BTD.view(heads), value_BTD.view(heads), layout, cache, scale=self.scale
        )
        return self.c_proj(attended.flatten(2))


class CrossAttention(nn.Module):
    """The weights that look at an encoder, which a language model alone does not have: held, never used."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.q_attn = nn.Linear(config.hidden_size, config.hidden_size)
        self.c_proj = nn.Linear(config.hidden_size, config.hidden_size)


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        inner = 4 * config.hidden_size if config.n_inner is None else config.n_inner
        self.c_fc = nn.Linear(config.hidden_size, inner)
        self.c_proj = nn.Linear(inner, config.hidden_size)
        self.activation = ACTIVATIONS[config.activation_function]

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(hidden_BTD)))


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        if config.add_cross_attention:
            self.crossattention = CrossAttention(config)
            self.ln_cross_attn = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, hidden_BTD: Tensor, layout: Layout, cache: LayerCache | None) -> Tensor:
        hidden_BTD = hidden_BTD + self.attn(self.ln_1(hidden_BTD), layout, cache)
        return hidden_BTD + self.mlp(self.ln_2(hidden_BTD))


class Decoder(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.wte = nn.Embedding(padded_rows(config.vocab_size), config.hidden_size)
        self.wpe = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)

    def forward(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None) -> Tensor:
        # padding may have positions beyond the table
        positions_BT = layout.positions_BT.masked_fill(layout.documents_BT == PADDING, 0)
        hidden_BTD = self.wte(ids_BT) + self.wpe(positions_BT)
        for block, layer_cache in zip(self.h, layers_of(cache, len(self.h)), strict=True):
            hidden_BTD = block(hidden_BTD, layout, layer_cache)
        return self.ln_f(hidden_BTD)


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, padded_rows(config.vocab_size), bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None = None) -> Tensor:
        return self.transformer(ids_BT, layout, cache)

    def head(self) -> Head:
        return Head(self.lm_head.weight, self.config.vocab_size)


def weights(config: Config) -> list[Operator]:
    operators: list[Operator] = [
        _based(PadVocabulary(EMBEDDING, config.vocab_size), EMBEDDING),
        Tied(HEAD, EMBEDDING) if config.tie_word_embeddings else PadVocabulary(HEAD, config.vocab_size),
        _same(f"{BASE}wpe.weight"),
    ]
    operators += _norm(f"{BASE}ln_f")
    for layer in range(config.num_hidden_layers):
        block = f"{BASE}h.{layer}"
        norms = ["ln_1", "ln_2"]
        projections = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
        attentions = ["attn"]
        if config.add_cross_attention:
            norms += ["ln_cross_attn"]
            projections += ["crossattention.c_attn", "crossattention.q_attn", "crossattention.c_proj"]
            attentions += ["crossattention"]
        for norm in norms:
            operators += _norm(f"{block}.{norm}")
        for projection in projections:
            operators += _conv1d(f"{block}.{projection}")
        for attention in attentions:
            for buffer in OLD_BUFFERS:
                name = f"{block}.{attention}.{buffer}"
                operators += [Absent(name), Absent(name.removeprefix(BASE))]
    return operators


def _based(operator: Operator, name: str) -> Operator:
    return Named(operator, (name, name.removeprefix(BASE)))


def _same(name: str) -> Operator:
    return _based(Same(name), name)


def _norm(name: str) -> list[Operator]:
    return [_same(f"{name}.weight"), _same(f"{name}.bias")]


def _conv1d(name: str) -> list[Operator]:
    weight = f"{name}.weight"
    return [_based(Transpose(weight, weight), weight), _same(f"{name}.bias")]
