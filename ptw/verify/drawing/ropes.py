"""Which RoPE scalings can a family have, and which of their keys move its output?

Keys are read off the library's own functions. Imports transformers: runs in the case maker's process only.
"""

from __future__ import annotations

import dataclasses
import inspect
import random
import re
from collections.abc import Iterator
from typing import Any

from ptw.verify.drawing.fields import FULL
from ptw.verify.drawing.search import Change, Search
from ptw.verify.drawing.sizes import Sizes
from ptw.verify.drawing.trials import Trials, Values

LARGE_PART = 0.75  # of a head's channels, where a part of them turns
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


@dataclasses.dataclass(frozen=True)
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
        kind: {key: value for key, value in ANY.items() if key in read(function)}
        for kind, function in ROPE_INIT_FUNCTIONS.items()
        if kind not in SCALINGS
    }
    for at, (name, scaling) in enumerate((SCALINGS | others).items()):
        rope = {"rope_type": name.split("-")[0], "rope_theta": 10000.0} | scaling
        rope |= _drawn(name, scaling, draw) if fresh else {}
        places = _places(default, draw, fresh)
        change = _scaled(trials, base, sizes, name, rope, places, draw)
        if change is not None:
            paths = tuple(f"rope_parameters.{place}" if place else "rope_parameters" for place in places)
            spelling = draw.choice(SPELLINGS) if fresh else SPELLINGS[at % len(SPELLINGS)]
            yield Scaling(name, change, paths, spelling)


def elsewhere(search: Search, sizes: Sizes) -> None:
    """The same types for the kinds of layers whose RoPE is another than full attention's."""
    default = search.defaults.get("rope_parameters") or {}
    for place in [kind for kind in kinds_of(default) if kind != FULL]:
        for name, scaling in SCALINGS.items():
            rope = {"rope_type": name.partition("-")[0], "rope_theta": 10000.0} | scaling
            draw = random.Random(name)
            change = _scaled(search.trials, search.base, sizes, name, rope, (place,), draw)
            if change is not None:
                search.moving.append(Change((f"rope_parameters.{place}",), change.values))


def _scaled(
    trials: Trials,
    base: Values,
    sizes: Sizes,
    name: str,
    rope: Values,
    places: tuple[str, ...],
    draw: random.Random,
) -> Change | None:
    """The first of the sizes around it beside which this scaling differs from none."""
    default = trials.family(**base).rope_parameters
    for size in _around(name, base, sizes, trials.family(**base)):
        sized = base | size
        try:
            config = trials.family(**sized)
        except Exception:  # these sizes are none of the family's
            continue
        part = _part(default, _pairs(config)) if places == ("",) else {}
        if name == "longrope":
            rope = rope | _long_factors(_pairs(config, part.get("partial_rotary_factor")), draw)
        given = _nested(default, part | rope, places)
        plain = part | {"rope_type": "default", "rope_theta": rope["rope_theta"]}
        unscaled = {"rope_parameters": _nested(default, plain, places)}
        if trials.moves(sized | unscaled, sized | {"rope_parameters": given}):
            return Change(("rope_parameters",), {"rope_parameters": given} | size)
    return None


def older(values: Values, spelling: str) -> Iterator[Values]:
    """The same config.json as older checkpoints spell it; none where they couldn't say it.

    With the base outside, as most have it, then inside: not every family reads a `rope_theta` outside.
    """
    rope = dict(values.get("rope_parameters") or {})
    nested = kinds_of(rope)
    if nested:
        rope = dict(rope[FULL]) if FULL in nested else {}
    if not spelling or "rope_theta" not in rope:
        return
    rest = {name: value for name, value in values.items() if name != "rope_parameters"}
    spelled = {spelling if key == "rope_type" else key: value for key, value in rope.items()}
    scaling = {key: value for key, value in spelled.items() if key != "rope_theta"}
    yield rest | {"rope_theta": rope["rope_theta"], "rope_scaling": scaling}
    yield rest | {"rope_scaling": spelled}


def types(rope: Values) -> dict[str, str]:
    """The type of every RoPE in it, by the kind of layers that it is for."""
    kinds = {kind: rope[kind] for kind in kinds_of(rope)} or {"": rope}
    return {kind: str(one.get("rope_type")) for kind, one in kinds.items()}


def _around(name: str, base: Values, sizes: Sizes, config: Any) -> Iterator[Values]:
    """Sizes beside a scaling: positions, and where few channels turn or YaRN's bounds need it a wide head."""
    wide = name == "yarn-wide"
    positions = 4 * WIDE_CONTEXT if wide else CONTEXT if name == "dynamic" else 4 * CONTEXT
    size: Values = {name: positions for name in ("max_position_embeddings",) if name in sizes.names}
    if "original_max_position_embeddings" in {field.name for field in dataclasses.fields(config)}:
        # where the family has it outside, that is what counts
        size["original_max_position_embeddings"] = WIDE_CONTEXT if wide else CONTEXT
    if wide or _pairs(config) < FEW:
        for wider in (
            {"qk_rope_head_dim": 32},
            {"head_dim": 32},
            {"hidden_size": 2 * base.get("hidden_size", 0)},
        ):
            if set(wider) <= sizes.names and set(wider) <= set(base):
                yield size | wider
    yield size
    if "head_dim" in base:
        yield size | {"head_dim": base["hidden_size"] // base["num_attention_heads"]}


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


def _pairs(config: Any, part: float | None = None) -> int:
    """Channels that a RoPE turns, by two."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    parameters = getattr(config, "rope_parameters", None) or {}
    return int(width * (part or parameters.get("partial_rotary_factor") or 1.0)) // 2


def _long_factors(pairs: int, draw: random.Random) -> Values:
    return {
        "short_factor": [round(draw.uniform(1.0, 1.5), 3) for _ in range(pairs)],
        "long_factor": [round(draw.uniform(1.5, 6.0), 3) for _ in range(pairs)],
    }


def kinds_of(rope: Values) -> list[str]:
    return [kind for kind, value in rope.items() if isinstance(value, dict)]


def _places(default: Values, draw: random.Random, fresh: bool) -> tuple[str, ...]:
    """Which of the kinds of layers that have a RoPE of their own are scaled; "" where all share one."""
    kinds = kinds_of(default)
    if not kinds:
        return ("",)
    if fresh:
        return draw.choice([(kind,) for kind in kinds] + [tuple(kinds)])
    return (FULL,) if FULL in kinds else (kinds[0],)


def _part(default: Values, pairs: int) -> Values:
    """The part of a head's channels that turns, larger where few do: between few no bound falls."""
    part = default.get("partial_rotary_factor")
    if part is None:
        return {}
    return {"partial_rotary_factor": max(part, LARGE_PART) if pairs < FEW else part}


def _nested(default: Values, rope: Values, places: tuple[str, ...]) -> Values:
    if places == ("",):
        return rope
    return {kind: dict(rope) if kind in places else value for kind, value in default.items()}


def read(function: Any) -> list[str]:
    """Every word in quotes of its text, without what its docstring says."""
    text = inspect.getsource(function)
    start = text.find('"""')
    end = text.find('"""', start + 3)
    return re.findall(r"[\"'](\w+)[\"']", text[:start] + text[end + 3 :] if start >= 0 else text)
