"""How do positions turn queries and keys? RoPE in every type of transformers/modeling_rope_utils.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.nn.layout import Layout

CONFIG_KEYS = ("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings")
WITH_ORIGINAL = ("llama3", "yarn", "longrope")  # types that know the context of the pre-training


@dataclass(frozen=True)
class RopeConfig:
    """One RoPE: its type, base, rotated width and the values of its scaling."""

    rope_type: str
    theta: float
    width: int
    max_positions: int
    scaling: Mapping[str, Any]

    @classmethod
    def from_hf(
        cls,
        values: Mapping[str, Any],
        width: int,
        max_positions: int,
        theta: float = 10_000.0,
        *,
        partial: bool = False,
    ) -> RopeConfig:
        """From a config.json of transformers 5 (`rope_parameters`) or 4 (`rope_theta`, `rope_scaling`).

        width is the head's. Of two that stand there `rope_scaling` counts, and a `rope_theta` in it more than
        one outside, then `theta`. partial: as of `of_parameters`; a `partial_rotary_factor` may stand
        outside, too. PtwError names a type or a key that is not implemented.
        """
        given = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
        if given.get("rope_theta") is None:
            given["rope_theta"] = values.get("rope_theta") or theta
        if partial and values.get("partial_rotary_factor") is not None:
            given.setdefault("partial_rotary_factor", values["partial_rotary_factor"])
        outside = values.get("original_max_position_embeddings")
        return cls.of_parameters(given, width, max_positions, original=outside, partial=partial)

    @classmethod
    def of_parameters(
        cls,
        parameters: Mapping[str, Any],
        width: int,
        max_positions: int,
        *,
        original: int | None = None,
        partial: bool = False,
    ) -> RopeConfig:
        """From the parameters of one RoPE, `rope_theta` among them.

        original: the context of the pre-training where config.json has it outside, which weighs more.
        partial: whether this family turns a head's first `partial_rotary_factor` only, with any type.
        """
        given = dict(parameters)
        rope_type = given.pop("rope_type", given.pop("type", None)) or "default"
        given.pop("type", None)
        theta = given.pop("rope_theta")
        if rope_type not in FREQUENCIES:
            raise PtwError(
                f"config.json: rope_type = {rope_type!r} is not implemented; known: {', '.join(FREQUENCIES)}"
            )
        if rope_type in WITH_ORIGINAL:
            given["original_max_position_embeddings"] = (
                original or given.get("original_max_position_embeddings") or max_positions
            )
        if missing := [key for key in REQUIRED.get(rope_type, ()) if given.get(key) is None]:
            raise PtwError(f"config.json: rope_parameters of type {rope_type!r} need {', '.join(missing)}")
        turned = width
        if partial and rope_type != "proportional" and "partial_rotary_factor" in given:
            turned = int(width * given.pop("partial_rotary_factor"))
        # as the reference rounds: an odd share up to whole pairs, an odd head of "proportional" down
        paired = width - width % 2 if rope_type == "proportional" else turned + turned % 2
        if paired > width or (paired < width and not partial):
            raise PtwError(
                f"config.json: {turned} of a head's {width} dimensions are to be turned: rotary positions "
                "turn pairs, so head_dim must be even and partial_rotary_factor at most 1"
            )
        _assert_known(rope_type, given)
        return cls(rope_type, theta, turned, max_positions, given)

    def frequencies(self, length: int) -> tuple[Tensor, float]:
        """Inverse frequencies (width / 2), and the factor on cos and sin, for a document of `length`."""
        return FREQUENCIES[self.rope_type](self, length)

    @property
    def depends_on_length(self) -> bool:
        """Whether a document's length chooses its frequencies."""
        return self.rope_type in ("dynamic", "longrope")


@dataclass(frozen=True)
class Rotation:
    """cos and sin of every token, (B, T, 1, width): of the angles of width / 2 pairs, twice over.

    In the dtype of what `Rope` was given: of `hidden_BTD.float()` they are not rounded.
    """

    cos: Tensor
    sin: Tensor

    def __call__(self, heads_BTNH: Tensor) -> Tensor:
        """Turn each pair (i, i + width/2) of the heads; what lies beyond the rotated width is left.

        Of halves a and b it gives (a cos - b sin, b cos + a sin). A family that turns otherwise makes a
        `Rotation` of its own (-sin turns back), or other pairs by hand.
        """
        width = self.cos.shape[-1]
        turned, kept = heads_BTNH[..., :width], heads_BTNH[..., width:]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * self.cos + torch.cat((-second, first), dim=-1) * self.sin
        return torch.cat((turned, kept), dim=-1) if kept.shape[-1] else turned


class Rope(nn.Module):
    """Angles for a layout. It holds no buffer: frequencies are made from the configuration at each call,
    so that neither a cast of the model nor loading on the meta device can spoil them."""

    def __init__(self, config: RopeConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, hidden_BTD: Tensor, layout: Layout) -> Rotation:
        """The rotation of each token."""
        return rotation(self.config, hidden_BTD, layout)


class Ropes(nn.Module):
    """The same for a family with a RoPE for each kind of layer."""

    def __init__(self, configs: Mapping[str, RopeConfig]) -> None:
        super().__init__()
        self.configs = configs

    def forward(self, hidden_BTD: Tensor, layout: Layout) -> dict[str, Rotation]:
        """The rotation of each token, by the kind of layer."""
        return {kind: rotation(config, hidden_BTD, layout) for kind, config in self.configs.items()}


@torch.no_grad()
def rotation(config: RopeConfig, hidden_BTD: Tensor, layout: Layout) -> Rotation:
    """Angles computed in fp32, their cos and sin rounded to the dtype of `hidden_BTD`."""
    frequencies, factor = _spread(config, layout) if config.depends_on_length else config.frequencies(0)
    angles = layout.positions_BT[..., None].float() * frequencies.to(hidden_BTD.device)
    angles = torch.cat((angles, angles), dim=-1)[:, :, None]
    cos, sin = angles.cos() * factor, angles.sin() * factor
    return Rotation(cos.to(hidden_BTD.dtype), sin.to(hidden_BTD.dtype))


def _spread(config: RopeConfig, layout: Layout) -> tuple[Tensor, float]:
    """(B, T, pairs): each token has the frequencies that the length of its document chooses."""
    made = {length: config.frequencies(length) for row in layout.lengths for length in (*row, 0)}
    rows = []
    for lengths, documents_T in zip(layout.lengths, layout.documents_BT, strict=True):
        of_documents = torch.stack([made[length][0] for length in (*lengths, 0)])
        rows.append(of_documents.to(documents_T.device)[documents_T])  # padding is document -1: the last
    return torch.stack(rows), made[0][1]


def _assert_known(rope_type: str, given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        inert = value is None or (key, value) == ("partial_rotary_factor", 1.0)
        if key not in KEYS[rope_type] and not inert:
            raise PtwError(
                f"config.json: rope_parameters.{key} = {value!r} is not implemented for {rope_type!r}"
            )


def _powers(theta: float | Tensor, width: int) -> Tensor:
    return theta ** (torch.arange(0, width, 2, dtype=torch.float32) / width)


def _default(config: RopeConfig, length: int) -> tuple[Tensor, float]:
    return 1.0 / _powers(config.theta, config.width), 1.0


def _linear(config: RopeConfig, length: int) -> tuple[Tensor, float]:
    """kaiokendev: positions are divided by a factor."""
    return 1.0 / _powers(config.theta, config.width) / config.scaling["factor"], 1.0


def _proportional(config: RopeConfig, length: int) -> tuple[Tensor, float]:
    """Only the first share of the pairs turns, at the frequencies of the whole width."""
    share = config.scaling.get("partial_rotary_factor", 1.0)
    turned = int(share * config.width // 2)
    frequencies = 1.0 / (config.theta ** (torch.arange(0, 2 * turned, 2, dtype=torch.float32) / config.width))
    still = torch.zeros(config.width // 2 - turned, dtype=torch.float32)
    return torch.cat((frequencies, still)) / config.scaling.get("factor", 1.0), 1.0


def _dynamic(config: RopeConfig, length: int) -> tuple[Tensor, float]:
    """NTK-aware scaling: beyond the trained context the base grows with the document's length."""
    factor, trained = config.scaling["factor"], config.max_positions
    # a tensor, as the reference has it beyond the context: in fp32 the base is rounded at each step
    seen = torch.tensor(length) if length > trained else trained
    stretch = factor * seen / trained - (factor - 1)
    theta = config.theta * stretch ** (config.width / (config.width - 2))
    return 1.0 / _powers(theta, config.width), 1.0


def _yarn(config: RopeConfig, length: int) -> tuple[Tensor, float]:
    """YaRN (arXiv:2309.00071): fast pairs keep their frequency, slow ones are interpolated."""
    scaling, width = config.scaling, config.width
    original = scaling["original_max_position_embeddings"]
    factor = scaling.get("factor") or config.max_positions / original
    low = _turns_to_pair(scaling.get("beta_fast") or 32, config, original)
    high = _turns_to_pair(scaling.get("beta_slow") or 1, config, original)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp = (torch.arange(width // 2, dtype=torch.float32) - low) / ((high - low) or 0.001)
    kept = 1 - ramp.clamp(0, 1)
    powers = _powers(config.theta, width)
    return 1.0 / (factor * powers) * (1 - kept) + 1.0 / powers * kept, _yarn_attention(scaling, factor)


def _turns_to_pair(turns: float, config: RopeConfig, context: int) -> float:
    """The pair that makes this many turns over the context."""
    return config.width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(config.theta))


def _yarn_attention(scaling: Mapping[str, Any], factor: float) -> float:
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return magnitude(scaling["mscale"]) / magnitude(scaling["mscale_all_dim"])
    return magnitude(1.0)


def _longrope(config: RopeConfig, length: int) -> tuple[Tensor, float]:
    """LongRoPE (arXiv:2402.13753): a factor a pair, one set for short documents, one for long ones."""
    scaling = config.scaling
    original = scaling["original_max_position_embeddings"]
    factor = scaling.get("factor") or config.max_positions / original
    attention = scaling.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    factors = scaling["long_factor"] if length > original else scaling["short_factor"]
    stretched = torch.tensor(factors, dtype=torch.float32) * _powers(config.theta, config.width)
    return 1.0 / stretched, attention


def _llama3(config: RopeConfig, length: int) -> tuple[Tensor, float]:
    """Llama 3.1: long waves are divided by the factor, short ones kept, a smooth step lies between."""
    scaling = config.scaling
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    frequencies = 1.0 / _powers(config.theta, config.width)
    wavelength = 2 * math.pi / frequencies
    smooth = (original / wavelength - low) / (high - low)
    between = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = torch.where(wavelength > original / low, frequencies / factor, between)
    return torch.where(wavelength < original / high, frequencies, scaled), 1.0


FREQUENCIES: dict[str, Callable[[RopeConfig, int], tuple[Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}
REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_CONTEXT = {"factor", "original_max_position_embeddings"}
KEYS: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor", "original_max_position_embeddings"},  # the latter is not read, nor is it by HF
    "yarn": _CONTEXT
    | {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "finetuned"},
    "longrope": _CONTEXT | {"attention_factor", "long_factor", "short_factor"},
    "llama3": _CONTEXT | {"low_freq_factor", "high_freq_factor"},
    "proportional": {"factor", "partial_rotary_factor"},
}
