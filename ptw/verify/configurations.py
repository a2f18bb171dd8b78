"""Which configurations of a family show its mistakes? A plain one, and one for each thing that it can do.

Nothing is listed by family: the fields come from its config class, and whether one matters is found by trying
it on the reference. Imports transformers: runs in the case maker's process only.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

Values = dict[str, Any]
Moves = Callable[[Values, Values], bool]  # does the reference's output differ between these two?

WINDOW = 24
CONTEXT = 48  # the original context of RoPE scaling: prompts go well beyond it
WIDE_CONTEXT = 512  # YaRN's bounds are clamped dead when the context is below 2 pi beta_fast = 201
PLAIN_SIZES: Values = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "sliding_window": WINDOW,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 40,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    # divisors and factors of attention's logits that are not derived from the head's width
    "query_pre_attn_scalar": 8,
    "attention_multiplier": 0.25,
}
ODD_SIZES: Values = PLAIN_SIZES | {
    "vocab_size": 149,
    "hidden_size": 60,
    "intermediate_size": 75,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "head_dim": 22,
}
ROPE: dict[str, Values] = {
    "linear": {"factor": 3.0, "rope_theta": 5000.0},  # spelt as older checkpoints do, the base outside
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": CONTEXT},
    "yarn-wide": {"factor": 4.0, "original_max_position_embeddings": WIDE_CONTEXT, "truncate": False},
    "longrope": {"original_max_position_embeddings": CONTEXT},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": CONTEXT,
    },
}
ACTIVATION_FIELDS = ("hidden_act", "hidden_activation", "activation_function")
ACTIVATIONS = ("gelu_pytorch_tanh", "relu", "gelu", "silu")
WINDOWED, FULL = "sliding_attention", "full_attention"


@dataclasses.dataclass(frozen=True)
class Configuration:
    """`values` make the config; `changes` are the fields that it is there for (empty for the plain one)."""

    name: str
    values: Values
    changes: Values
    legacy: bool = False  # config.json in the spelling of older checkpoints: rope_theta and rope_scaling


def configurations(config_class: Any, moves: Moves, draw: random.Random, fresh: bool) -> list[Configuration]:
    """The plain configuration first. `fresh`: sizes and numbers are drawn, else they are always the same."""
    known = field_names(config_class)
    plain = _known(PLAIN_SIZES | _layers(config_class, PLAIN_SIZES["num_hidden_layers"]), known)
    odd = _known(ODD_SIZES | _layers(config_class, ODD_SIZES["num_hidden_layers"]), known)
    if fresh:
        odd |= _known(_drawn_sizes(draw), known)
        odd |= _known(_layers(config_class, odd.get("num_hidden_layers", 1)), known)
    found = [Configuration("plain", plain, {})]
    tied = {"tie_word_embeddings": not bool(getattr(config_class(), "tie_word_embeddings", False))}
    found.append(Configuration("odd sizes", odd | tied, tied))
    for name, changes in (
        ("switches", _switches(config_class, odd, moves)),
        ("numbers", _numbers(config_class, plain, moves, draw, fresh)),
        ("windows", _windows(config_class, odd, known, draw)),
    ):
        base = plain if name == "numbers" else odd
        if changes and moves(base, base | changes):
            found.append(Configuration(name, base | changes, changes))
    found += _ropes(config_class, odd if not fresh else odd | tied, moves, draw, fresh)
    found += _activations(config_class, plain, moves)
    return found


def field_names(config_class: Any) -> set[str]:
    """The names that the config class takes, under its own and under the common spelling."""
    own = {field.name for field in dataclasses.fields(config_class)}
    common = getattr(config_class, "attribute_map", {})
    return own | {name for name, native in common.items() if native in own}


def own_fields(config_class: Any) -> Iterator[tuple[str, Any]]:
    """Fields that the family adds to the base config, with the default that it resolves to."""
    from transformers import PreTrainedConfig

    default = config_class()
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    for field in dataclasses.fields(config_class):
        if field.name not in common:
            yield field.name, getattr(default, field.name, None)


def _known(values: Values, known: set[str]) -> Values:
    if "qk_rope_head_dim" in known:
        # latent attention derives head_dim from the width that it turns, and has keys for every head
        known = known - {"head_dim"}
        if "num_attention_heads" in values:
            values = values | {"num_key_value_heads": values["num_attention_heads"]}
    return {name: value for name, value in values.items() if name in known}


def _layers(config_class: Any, layers: int) -> Values:
    """Every kind of layer that the family's default has, in turn, however few layers there are."""
    kinds = getattr(config_class(), "layer_types", None)
    if not kinds:
        return {}
    ordered = list(dict.fromkeys(kinds))
    if len(ordered) < 2:
        return {}
    return {"layer_types": [ordered[layer % len(ordered)] for layer in range(layers)]}


def _drawn_sizes(draw: random.Random) -> Values:
    keys = draw.choice((1, 2, 3))
    heads = keys * draw.choice((1, 2, 3))
    return {
        "vocab_size": draw.choice((67, 101, 128, 149, 193)),
        "hidden_size": heads * draw.choice((8, 10, 14, 16)),
        "intermediate_size": draw.randrange(33, 110),
        "num_hidden_layers": draw.choice((2, 3, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "head_dim": 2 * draw.randrange(6, 17),
        "sliding_window": draw.randrange(5, 40),
    }


def _switches(config_class: Any, base: Values, moves: Moves) -> Values:
    """Every boolean that moves the reference's output, the other way round."""
    changes: Values = {}
    for name, default in own_fields(config_class):
        flipped: Values = {name: not default}
        if isinstance(default, bool) and name != "tie_word_embeddings":
            if name == "use_sliding_window":
                flipped |= {"sliding_window": WINDOW, "max_window_layers": 1}
            if moves(base | changes, base | changes | flipped):
                changes |= flipped
    return changes


def _numbers(config_class: Any, base: Values, moves: Moves, draw: random.Random, fresh: bool) -> Values:
    """Every float that moves the reference's output, away from its default."""
    changes: Values = {}
    for name, default in own_fields(config_class):
        if isinstance(default, float) and not isinstance(default, bool):
            factor = draw.uniform(1.3, 3.0) if fresh else 1.7
            # an epsilon is to weigh something beside a variance of about one
            value = {name: 3e-3 * factor if "eps" in name else default * factor}
            if default and moves(base, base | value):
                changes |= value
    base_angle = draw.uniform(50.0, 2e4) if fresh else 700.0
    theta = {"rope_parameters": {"rope_type": "default", "rope_theta": base_angle}}
    parameters = getattr(config_class(), "rope_parameters", None)
    if parameters and "rope_theta" in parameters and moves(base, base | theta):
        changes |= theta
    return changes


def _windows(config_class: Any, base: Values, known: set[str], draw: random.Random) -> Values:
    """Windows far below the prompt, in some layers only, in an order that no rule would give."""
    if "sliding_window" not in known:
        return {}
    window = {"sliding_window": draw.randrange(5, 40)}
    if "layer_types" not in known:
        return window
    layers = base["num_hidden_layers"]
    kinds = [WINDOWED, FULL, WINDOWED, WINDOWED, FULL][:layers]
    switch = {"use_sliding_window": True} if "use_sliding_window" in known else {}
    return window | switch | {"layer_types": kinds}


def _ropes(
    config_class: Any, base: Values, moves: Moves, draw: random.Random, fresh: bool
) -> Iterator[Configuration]:
    for name, scaling in ROPE.items():
        wide = name == "yarn-wide"
        size: Values = {"max_position_embeddings": 4 * WIDE_CONTEXT if wide else 4 * CONTEXT}
        if name == "dynamic":
            size = {"max_position_embeddings": CONTEXT}
        if wide and "head_dim" in _known(PLAIN_SIZES, field_names(config_class)):
            size["head_dim"] = 32
        rope = {"rope_type": name.split("-")[0], "rope_theta": 10000.0} | scaling
        if fresh:
            rope |= _drawn_scaling(name, scaling, draw)
        if name == "longrope":
            rope |= _long_factors(config_class(**base | size), draw)
        changes = {"rope_parameters": _nested(config_class, rope)} | _known(size, field_names(config_class))
        unscaled = _nested(config_class, {"rope_type": "default", "rope_theta": rope["rope_theta"]})
        before = base | size | {"rope_parameters": unscaled}
        if "rope_parameters" in field_names(config_class) and moves(before, base | changes):
            yield Configuration(f"rope {name}", base | changes, changes, legacy=name == "linear")


def _drawn_scaling(name: str, scaling: Values, draw: random.Random) -> Values:
    drawn: Values = {"rope_theta": draw.uniform(500.0, 5e4)}
    if "factor" in scaling:
        drawn["factor"] = draw.uniform(1.5, 9.0)
    if name.startswith("yarn"):
        scales: tuple[Values, ...] = (
            {},
            {"attention_factor": draw.uniform(0.7, 1.6)},
            {"mscale": 0.8, "mscale_all_dim": 1.3},
        )
        bounds: tuple[Values, ...] = (
            {},
            {"beta_fast": draw.uniform(8.0, 40.0), "beta_slow": draw.uniform(0.5, 2.0)},
        )
        drawn |= draw.choice(scales) | draw.choice(bounds)
    return drawn


def _long_factors(config: Any, draw: random.Random) -> Values:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    parameters = getattr(config, "rope_parameters", None) or {}
    pairs = int(width * parameters.get("partial_rotary_factor", 1.0)) // 2
    return {
        "short_factor": [round(draw.uniform(1.0, 1.5), 3) for _ in range(pairs)],
        "long_factor": [round(draw.uniform(1.5, 6.0), 3) for _ in range(pairs)],
    }


def _nested(config_class: Any, rope: Values) -> Values:
    """The same scaling for full attention only, where the family has a RoPE for each kind of layer."""
    default = getattr(config_class(), "rope_parameters", None) or {}
    kinds = {kind: value for kind, value in default.items() if isinstance(value, dict)}
    if not kinds:
        return rope
    return {kind: dict(rope) if kind == FULL else dict(value) for kind, value in kinds.items()}


def _activations(config_class: Any, base: Values, moves: Moves) -> Iterator[Configuration]:
    names = [name for name, _ in own_fields(config_class) if name in ACTIVATION_FIELDS]
    for name in names:
        for value in ACTIVATIONS:
            change = {name: value}
            if moves(base, base | change):
                yield Configuration(f"{name} {value}", base | change, change)
