"""How small can a family be built? Sizes that show mistakes, for the names that are common and for any other.

What isn't known by name is found by trying: a field whose value changes the shapes of the weights is a size.
Imports transformers: runs in the case maker's process only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

from ptw.errors import PtwError
from ptw.verify.drawing.fields import read_besides
from ptw.verify.drawing.informative import pattern
from ptw.verify.drawing.trials import Trials, Values, parameters
from ptw.verify.reference import hf

WINDOW = 24
PLAIN_SIZES: Values = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 20,
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
    "qk_nope_head_dim": 20,
    "qk_rope_head_dim": 16,
    "v_head_dim": 12,
    # divisors and factors of attention's logits that are not derived from the head's width
    "query_pre_attn_scalar": 8,
    "attention_multiplier": 0.25,
}
ODD_SIZES: Values = {
    "vocab_size": 149,
    "hidden_size": 60,
    "intermediate_size": 75,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "head_dim": 22,
}
LARGEST = 600_000  # parameters of a model that is only tried
SMALL = (16, 8, 32, 64, 4, 2, 1, 128, 24, 12, 48, 96)
FEW = (1, 2, 4, None)
REPAIRS = 8
STAGES = ("config", "shapes", "size", "run", "runs")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """`plain` values of the sizes, and which of the family's fields are sizes at all."""

    plain: Values
    names: frozenset[str]


def small(trials: Trials) -> Sizes:
    """The smallest plain configuration that the reference runs. PtwError if none is found."""
    family = trials.family
    values = native(family, PLAIN_SIZES)
    if "qk_rope_head_dim" in values:
        # latent attention derives head_dim from the width that it turns, and has keys for every head
        values.pop("head_dim", None)
        values |= native(family, {"num_key_value_heads": PLAIN_SIZES["num_attention_heads"]})
    values |= per_layer(family, values) | _tokens(family, values)
    unknown = [name for name, default in own_fields(family) if _large(name, default, values)]
    values |= _shrunk(trials, values, unknown)
    values = repaired(trials, values, unknown)
    values |= _undeclared(trials, values)
    values = _enriched(trials, values, unknown)
    names = {
        *native(family, PLAIN_SIZES),
        *(name for name in PLAIN_SIZES if name in values),
        *(name for name in unknown if name in values),
    }
    return Sizes(values, frozenset(names))


def odd(trials: Trials, sizes: Sizes, draw: random.Random, *, fresh: bool) -> Values:
    """Other sizes, none a power of two: each that the reference takes. `fresh`: drawn."""
    family, found = trials.family, dict(sizes.plain)
    drawn = _drawn(draw) if fresh else ODD_SIZES
    wanted = drawn | native(family, drawn)
    wanted = {name: value for name, value in wanted.items() if name in sizes.plain}
    together = found | wanted
    together |= per_layer(family, together)
    if trials.runs(together):
        return together
    for name, value in wanted.items():
        one = found | {name: value}
        one |= per_layer(family, one)
        if trials.runs(one):
            found = one
    return found


def native(family: Any, values: Values) -> Values:
    """Under the family's own names, those that it has."""
    own = {field.name for field in dataclasses.fields(family)}
    common = getattr(family, "attribute_map", {})
    renamed = {name if name in own else common.get(name, name): value for name, value in values.items()}
    return {name: value for name, value in renamed.items() if name in own}


def own_fields(family: Any) -> Iterator[tuple[str, Any]]:
    """Fields that the family adds to the base config, with the default that it resolves to."""
    from transformers import PreTrainedConfig

    default = family()
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    for field in dataclasses.fields(family):
        if field.name not in common:
            yield field.name, getattr(default, field.name, None)


def per_layer(family: Any, values: Values) -> Values:
    """Lists with an entry a layer: every kind that the family's default has, in turn, however few layers."""
    default = family()
    layers = layers_name(family)
    count = values.get(layers)
    found: Values = {}
    for name, value in own_fields(family):
        if isinstance(value, list) and len(value) == getattr(default, layers, None) and count:
            kinds = list(dict.fromkeys(map(_hashable, value)))
            if len(kinds) > 1:
                found[name] = [value[value.index(kinds[at % len(kinds)])] for at in range(count)]
    return found


def layers_name(family: Any) -> str:
    return str(getattr(family, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers"))


def stage(trials: Trials, values: Values) -> str:
    """How far the reference comes with these values; "runs" is all the way."""
    try:
        config = trials.family(**values)
    except Exception:  # whatever the family refuses
        return "config"
    try:
        with torch.device("meta"):
            count = parameters(hf.unfilled(config))
    except Exception:  # whatever its modules refuse
        return "shapes"
    if count > LARGEST:
        return "size"
    return "runs" if trials.runs(values) else "run"


def _undeclared(trials: Trials, values: Values) -> Values:
    """Sizes by their common names that the code reads though no field declares them."""
    found: Values = {}
    for name in read_besides(trials.family):
        one = {name: PLAIN_SIZES.get(name)}
        if one[name] is not None and _shapes(trials, values | one) not in (None, _shapes(trials, values)):
            found |= one if trials.runs(values | found | one) else {}
    return found


def _tokens(family: Any, values: Values) -> Values:
    """Special tokens that a small vocabulary hasn't got."""
    found = {name: value for name, value in own_fields(family) if name.endswith("_token_id")}
    size = values.get("vocab_size", 0)
    return {name: 1 for name, value in found.items() if isinstance(value, int) and value >= size > 1}


def _large(name: str, default: Any, values: Values) -> bool:
    return _whole(default) and default >= 32 and name not in values and not name.endswith("_token_id")


def _shrunk(trials: Trials, values: Values, unknown: list[str]) -> Values:
    """Of the fields with another name, those on which the weights' shapes depend, made small."""
    found: Values = {}
    default = trials.family()
    width = getattr(default, "hidden_size", None) or 1024
    for name in unknown:
        before, after = (_shapes(trials, values | found | {name: value}) for value in (96, 64))
        given = _shapes(trials, values | found)
        if (before is None or after is None or before != after) and given != after:
            found[name] = max(8, getattr(default, name) * 64 // width // 8 * 8)
    return found


def _shapes(trials: Trials, values: Values) -> dict[str, tuple[int, ...]] | None:
    try:
        with torch.device("meta"):
            model = hf.unfilled(trials.family(**values))
    except Exception:  # nothing is known about such values
        return None
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def _enriched(trials: Trials, values: Values, unknown: list[str]) -> Values:
    """With every kind of weights that a layer may have: if three are dense, few layers have no other."""
    for name, default in own_fields(trials.family):
        if not _whole(default) or default < 2 or name in values or name in unknown:
            continue
        for value in (1, 2):
            before, after = _shapes(trials, values), _shapes(trials, values | {name: value})
            if after and before and set(map(pattern, after)) > set(map(pattern, before)):
                with contextlib.suppress(PtwError):
                    values = repaired(trials, values | {name: value}, unknown, {name})
                    break
    return values


def repaired(
    trials: Trials,
    values: Values,
    unknown: Sequence[str] = (),
    kept: Collection[str] = (),
    most: int = REPAIRS,
) -> Values:
    """One change after the other that brings the reference further, until it runs. PtwError if it won't."""
    for _ in range(most + 1):
        reached = STAGES.index(stage(trials, values))
        if STAGES[reached] == "runs":
            return values
        changed = _changed(trials, values, unknown, kept)
        better = ((STAGES.index(stage(trials, one)), one) for one in changed)
        found = next((pair for pair in better if pair[0] > reached), None)
        if found is None:
            break
        values = found[1]
    error = trials.outcome(values).error
    raise PtwError(f"the reference can't be built small: {error}")


def _changed(
    trials: Trials, values: Values, unknown: Sequence[str], kept: Collection[str]
) -> Iterator[Values]:
    """Every single change of whole numbers: what the reference's complaint names first, the layers last."""
    complaint = trials.outcome(values).complaint
    others = [name for name in _numbers(trials.family) if name not in values]
    names = [*unknown, *others, *reversed(values)]
    names = [name for name in dict.fromkeys(names) if name not in kept]
    for name in sorted(names, key=lambda name: (name not in complaint, name.endswith("_id"))):
        # what a checkpoint's shapes don't depend on is a number of few
        for value in (*SMALL, None) if name in values or name in unknown else FEW:
            one = values | {name: value}
            yield one | per_layer(trials.family, one)
    for name in set(values) - set(kept):
        yield {key: value for key, value in values.items() if key != name}


def _numbers(family: Any) -> Iterator[str]:
    """Own fields that hold whole numbers, also where the default is none."""
    kinds = {field.name: re.findall(r"\w+", str(field.type)) for field in dataclasses.fields(family)}
    for name, value in own_fields(family):
        if _whole(value) or (value is None and "int" in kinds[name]):
            yield name


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _drawn(draw: random.Random) -> Values:
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
