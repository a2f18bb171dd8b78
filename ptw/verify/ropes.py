"""Which RoPE scalings can a family have, and which of their keys move its output?

Keys are read off the library's own functions. Imports transformers: runs in the case maker's process only.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ptw.verify.fields import FULL, apply
from ptw.verify.search import Change, Search
from ptw.verify.sizes import Sizes
from ptw.verify.trials import Trials, Values

FEW = 8  # pairs of channels: between fewer no bound of YaRN or Llama 3 falls
CONTEXT = 48  # the original context of RoPE scaling: prompts go well beyond it
WIDE_CONTEXT = 512  # YaRN's bounds are clamped dead when the context is below 2 pi beta_fast = 201
SCALINGS: dict[str, Values] = {
    "linear": {"factor": 3.0, "rope_theta": 5000.0},
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
# whatever other types a library has
ANY = {"factor": 4.0, "original_max_position_embeddings": CONTEXT}
SPELLINGS = ("rope_type", "", "type", "", "rope_type", "")  # "" is today's; else the key of the older ones


@dataclass(frozen=True)
class Scaling:
    """A case's change; `paths` are where in the configuration scaled parameters stand."""

    name: str
    change: Change
    paths: tuple[str, ...]
    spelling: str

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


def scalings(
    trials: Trials, base: Values, sizes: Sizes, draw: random.Random, *, fresh: bool
) -> Iterator[Scaling]:
    """Every type that moves the output away from the same base angle unscaled."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    default = getattr(trials.family(**base), "rope_parameters", None)
    if not default:
        return
    others = {
        kind: {key: value for key, value in ANY.items() if key in _read(function)}
        for kind, function in ROPE_INIT_FUNCTIONS.items()
        if kind not in SCALINGS
    }
    for at, (name, scaling) in enumerate((SCALINGS | others).items()):
        rope = {"rope_type": name.split("-")[0], "rope_theta": 10000.0} | scaling
        rope |= _drawn(name, scaling, draw) if fresh else {}
        for size in _around(name, base, sizes, trials.family(**base)):
            sized = base | size
            if name == "longrope":
                rope |= _long_factors(trials.family(**sized), draw)
            places = _places(default, draw, fresh)
            scaled = {"rope_parameters": _nested(default, rope, places)}
            plain = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
            unscaled = {"rope_parameters": _nested(default, plain, places)}
            if trials.moves(sized | unscaled, sized | scaled):
                paths = tuple(f"rope_parameters.{place}" if place else "rope_parameters" for place in places)
                change = Change(("rope_parameters",), scaled | size)
                yield Scaling(name, change, paths, SPELLINGS[at % len(SPELLINGS)])
                break


def keys(search: Search, scaling: Scaling) -> tuple[str, ...]:
    """Every key that this type reads, moved away from what the scaling has; those that need one another.

    Gives those that show on short documents only, where the scaling's own case has some.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

    gate, path = scaling.change.all, scaling.paths[0]
    base = apply(search.base, gate, search.defaults)
    rope = base
    for name in path.split("."):
        rope = rope[name]
    read = _read(ROPE_INIT_FUNCTIONS[rope["rope_type"]])
    kinds = RopeParameters.__annotations__
    still: Values = {}
    moved: Values = {}
    brief = []
    for key in dict.fromkeys(["partial_rotary_factor", *read]):
        if key not in kinds or key in ("rope_type", "rope_theta"):
            continue
        values = _values(key, rope.get(key), str(kinds[key]))
        search.note(f"rope_parameters.{key}", values)
        found = next((value for value in values if _moves(search, base, {f"{path}.{key}": value})), None)
        if found is not None:
            moved[f"{path}.{key}"] = found
            search.moving.append(Change((f"rope_parameters.{key}",), {f"{path}.{key}": found}, gate))
        elif any(_moves_briefly(search, base, {f"{path}.{key}": value}) for value in values):
            brief.append(f"rope_parameters.{key}")
        else:
            runs = (value for value in values if _runs(search, base, {f"{path}.{key}": value}))
            still |= {f"{path}.{key}": value for value in [next(runs, None)] if value is not None}
    _together(search, gate, moved, still)
    return tuple(brief)


def _together(search: Search, gate: Values, moved: Values, still: Values) -> None:
    """Keys that move nothing alone: all of them at once, or each beside those that do move something."""
    base = apply(search.base, gate, search.defaults)
    if len(still) > 1 and _moves(search, base, still):
        names = tuple(f"rope_parameters.{path.rpartition('.')[2]}" for path in still)
        search.moving.append(Change(names, still, gate))
        return
    beside = apply(base, moved, search.defaults)
    for path, value in still.items():
        if _moves(search, beside, {path: value}):
            name = f"rope_parameters.{path.rpartition('.')[2]}"
            search.moving.append(Change((name,), {path: value}, gate | moved))


def unscaled_keys(search: Search) -> None:
    """The base angle and the turned part, for every kind of layer that has its own."""
    default = search.defaults.get("rope_parameters") or {}
    for place in _kinds(default) or [""]:
        path = f"rope_parameters.{place}" if place else "rope_parameters"
        for key, values in {"rope_theta": (700.0,), "partial_rotary_factor": (0.5, 0.25)}.items():
            search.note(f"rope_parameters.{key}", values)
            for value in values:
                if _moves(search, search.base, {f"{path}.{key}": value}):
                    search.moving.append(Change((f"rope_parameters.{key}",), {f"{path}.{key}": value}))
                    break


def older(values: Values, spelling: str) -> Values | None:
    """The same config.json as older checkpoints spell it; None where they couldn't say it."""
    rope = dict(values.get("rope_parameters") or {})
    nested = _kinds(rope)
    if nested:
        rope = dict(rope[FULL]) if FULL in nested else {}
    if not spelling or "rope_theta" not in rope:
        return None
    found = {name: value for name, value in values.items() if name != "rope_parameters"}
    found["rope_theta"] = rope.pop("rope_theta")
    found["rope_scaling"] = {spelling if key == "rope_type" else key: value for key, value in rope.items()}
    return found


def types(rope: Values) -> dict[str, str]:
    """The type of every RoPE in it, by the kind of layers that it is for."""
    kinds = {kind: rope[kind] for kind in _kinds(rope)} or {"": rope}
    return {kind: str(one.get("rope_type")) for kind, one in kinds.items()}


def _around(name: str, base: Values, sizes: Sizes, config: Any) -> Iterator[Values]:
    """Sizes beside a scaling: positions, and where few channels turn or YaRN's bounds need it a wide head."""
    wide = name == "yarn-wide"
    positions = 4 * WIDE_CONTEXT if wide else CONTEXT if name == "dynamic" else 4 * CONTEXT
    size = {name: positions for name in ("max_position_embeddings",) if name in sizes.names}
    if wide or _pairs(config) < FEW:
        for wider in (
            {"qk_rope_head_dim": 32},
            {"head_dim": 32},
            {"hidden_size": 2 * base.get("hidden_size", 0)},
        ):
            if set(wider) <= sizes.names and set(wider) <= set(base):
                yield size | wider
    yield size


def _drawn(name: str, scaling: Values, draw: random.Random) -> Values:
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


def _pairs(config: Any) -> int:
    """Channels that a RoPE turns, by two."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    parameters = getattr(config, "rope_parameters", None) or {}
    part = parameters.get("partial_rotary_factor") or 1.0
    return int(width * part) // 2


def _long_factors(config: Any, draw: random.Random) -> Values:
    pairs = _pairs(config)
    return {
        "short_factor": [round(draw.uniform(1.0, 1.5), 3) for _ in range(pairs)],
        "long_factor": [round(draw.uniform(1.5, 6.0), 3) for _ in range(pairs)],
    }


def _kinds(rope: Values) -> list[str]:
    return [kind for kind, value in rope.items() if isinstance(value, dict)]


def _places(default: Values, draw: random.Random, fresh: bool) -> tuple[str, ...]:
    """Which of the kinds of layers that have a RoPE of their own are scaled; "" where all share one."""
    kinds = _kinds(default)
    if not kinds:
        return ("",)
    if fresh:
        return draw.choice([(kind,) for kind in kinds] + [tuple(kinds)])
    return (FULL,) if FULL in kinds else (kinds[0],)


def _nested(default: Values, rope: Values, places: tuple[str, ...]) -> Values:
    kept = {key: value for key, value in default.items() if key == "partial_rotary_factor" and "" in places}
    if places == ("",):
        return kept | rope
    return {kind: dict(rope) if kind in places else value for kind, value in default.items()}


def _values(key: str, value: Any, kind: str) -> list[Any]:
    if isinstance(value, bool) or "bool" in kind:
        return [not value] if isinstance(value, bool) else [False, True]
    if isinstance(value, list):
        return [[entry * 1.5 for entry in value]]
    if "list" in kind:
        return []
    if isinstance(value, int):
        return [value - 8, value * 2]
    if isinstance(value, float):
        return [value * 1.7, value * 0.6]
    return [0.5] if key.startswith("partial") else [40] if "int" in kind else [1.3, 12.0, 0.5]


def _moves(search: Search, base: Values, changes: Values) -> bool:
    return search.trials.moves(base, apply(base, changes, search.defaults))


def _moves_briefly(search: Search, base: Values, changes: Values) -> bool:
    return search.trials.moves_briefly(base, apply(base, changes, search.defaults))


def _runs(search: Search, base: Values, changes: Values) -> bool:
    return search.trials.runs(apply(base, changes, search.defaults))


def _read(function: Any) -> list[str]:
    """Every word in quotes of its text, without what its docstring says."""
    text = inspect.getsource(function)
    start = text.find('"""')
    end = text.find('"""', start + 3)
    return re.findall(r"[\"'](\w+)[\"']", text[:start] + text[end + 3 :] if start >= 0 else text)
