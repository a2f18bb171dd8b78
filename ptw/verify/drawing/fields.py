"""Which fields has a family's configuration, and which other values may each have?

All is read off the config class, its annotations, and the text of the two modules that use it: nothing is
listed by family. Imports transformers: runs in the case maker's process only.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import random
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ptw.verify.reference import source

Values = dict[str, Any]

LARGEST_SIZE = 300
FEW = 8
ABSENT = "<absent>"  # the value of a field that a checkpoint leaves out
WINDOWED, FULL = "sliding_attention", "full_attention"
UNCOMMON = 3  # activations that practice tries beside the common ones; acceptance tries all
COMMON_ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "relu", "gelu")
ROPES = ("rope_parameters", "rope_scaling")  # what they hold is tried key by key
# read by the library around the model, not by the model
AROUND = re.compile(
    r"^_|attn_implementation|experts_implementation|output_attentions|torch_dtype|quantization"
)
READ = re.compile(
    r"(?:kwargs\.(?:pop|get|setdefault)\(\s*|(?:getattr|hasattr)\(\s*(?:self|config|self\.config),\s*)"
    r"[\"'](\w+)[\"']"
)


@dataclasses.dataclass(frozen=True)
class Field:
    """`default` is what the plain configuration resolves it to; `kinds` what its annotation allows."""

    name: str
    default: Any
    kinds: frozenset[str]
    own: bool  # the family's, not every config's
    unset: Any = None  # what the class itself says, before anything is resolved
    declared: bool = True  # else it is only read where it is present


def family_fields(family: Any, plain: Values) -> list[Field]:
    """Every field, also those of the base class, and what the code reads though no field declares it."""
    from transformers import PreTrainedConfig

    resolved = family(**plain)
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    found = []
    for field in dataclasses.fields(family):
        kinds = frozenset(re.findall(r"\w+", str(field.type)))
        own = field.name not in common
        value = getattr(resolved, field.name, None)
        found.append(Field(field.name, value, kinds, own, getattr(family, field.name, None)))
    besides = read_besides(family)
    found += (Field(name, plain.get(name), frozenset(), True, declared=False) for name in besides)
    return [field for field in found if field.name not in ROPES]


@functools.cache
def read_besides(family: Any) -> tuple[str, ...]:
    """Names that the code reads from a configuration without declaring them: older spellings, options."""
    declared = {field.name for field in dataclasses.fields(family)}
    declared |= set(getattr(family, "attribute_map", {})) | {"rope_scaling", "rope_parameters"}
    names = dict.fromkeys(READ.findall("\n".join(sources(family))))
    properties = {name for name in names if isinstance(getattr(family, name, None), property)}
    return tuple(name for name in names if not AROUND.search(name) and name not in declared | properties)


@functools.cache
def read_by_model(family: Any, name: str) -> bool:
    """Whether the text that a causal model of this family reaches names the field, or what stands for it."""
    alias = {own: usual for usual, own in getattr(family, "attribute_map", {}).items()}
    names = "|".join({name, alias.get(name, name), getattr(family, "attribute_map", {}).get(name, name)})
    texts = source.modeling(family.model_type)
    return any(
        re.search(rf"\b({names})\b", text)
        for file, text in texts.items()
        if not file.startswith("configuration")
    )


@functools.cache
def sources(family: Any) -> tuple[str, ...]:
    """The text of the config's classes below the base class, of its RoPE part, and of the model's module."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig
    from transformers.modeling_rope_utils import RotaryEmbeddingConfigMixin

    own = [one for one in family.__mro__ if issubclass(one, PreTrainedConfig) and one is not PreTrainedConfig]
    model = MODEL_FOR_CAUSAL_LM_MAPPING[family]
    classes = [*own, RotaryEmbeddingConfigMixin]
    return (*(inspect.getsource(one) for one in classes), inspect.getsource(sys.modules[model.__module__]))


class Alternatives:
    """Values for a field in the order in which to try them. `fresh`: the numbers are drawn."""

    def __init__(
        self, family: Any, plain: Values, sizes: frozenset[str], draw: random.Random, fresh: bool
    ) -> None:
        self.family, self.plain, self.sizes, self.draw, self.fresh = family, plain, sizes, draw, fresh
        self.layers = getattr(family(**plain), "num_hidden_layers", None)

    def of(self, field: Field) -> list[Any]:
        found = [value for value in self._any(field) if value != field.default or isinstance(value, str)]
        if isinstance(field.default, bool):
            found = [value for value in found if value is not field.default]
        # only where a small model stays small
        small = field.unset is None or (_whole(field.unset) and 0 < field.unset <= LARGEST_SIZE)
        if field.name in self.plain and small and field.default != self.layers:
            found.append(ABSENT)
        if field.default is not None and "None" in field.kinds:
            found.append(None)
        return list({repr(value): value for value in found}.values())

    def _any(self, field: Field) -> list[Any]:
        default = field.default
        if field.name in self.sizes and _whole(default) and default <= LARGEST_SIZE:
            return self._sizes(default)
        if isinstance(default, bool):
            return [not default]
        if _whole(default):
            return self._whole_numbers(default)
        if isinstance(default, float):
            return self._numbers(field.name, default)
        if isinstance(default, str):
            return self._words(field.name, default)
        if isinstance(default, list | tuple):
            return self._lists(list(default))
        if isinstance(default, dict):
            return [{**default, key: value * 2} for key, value in default.items() if _number(value)]
        return self._for_nothing(field) if default is None else []

    def _sizes(self, value: int) -> list[Any]:
        # one of a thing is a case where there are few of it: one channel is none of a head
        few = [1] if value <= FEW else []
        steps = [value * 2, value + 1, value - 1, value // 2, *few, value * 3]
        if self.fresh:
            self.draw.shuffle(steps)
        return [step for step in steps if 0 < step <= LARGEST_SIZE]

    def _whole_numbers(self, value: int) -> list[Any]:
        if value >= 32:
            return [48, 60, value * 2, value // 2, 1]  # the first two below the length that is tried
        drawn = [self.draw.randrange(3, 8)] if self.fresh else []
        return [1, 2, *drawn, value + 1, value // 2, 0]

    def _numbers(self, name: str, value: float) -> list[Any]:
        factor = self.draw.uniform(1.3, 3.0) if self.fresh else 1.7
        if "eps" in name and abs(value) < 1e-2:
            # to weigh something beside a variance of about one
            return [3e-3 * factor]
        if value == 0:
            return [0.2 * factor, 0.8 * factor]
        return [value * factor, value / factor, value / 10, 0.0]

    def _words(self, name: str, value: str) -> list[Any]:
        from transformers.activations import ACT2CLS

        if value in ACT2CLS:
            first = [one for one in COMMON_ACTIVATIONS if one != value]
            others = [one for one in ACT2CLS if one not in first]
            return [*first, *(others if self.fresh else others[:UNCOMMON])]
        return list(self._said(name))

    def _lists(self, value: list[Any]) -> list[Any]:
        if value and len(value) == self.layers:
            return self._by_layer(value)
        if value and all(_number(entry) for entry in value):
            return [[entry * 2 for entry in value], value[::-1]]
        return [value[::-1]] if value else self._layer_numbers()

    def _by_layer(self, value: list[Any]) -> list[Any]:
        """One kind for every layer, the same kinds in another order, and kinds that the family also has."""
        kinds = list(dict.fromkeys(value)) if all(isinstance(one, str | int) for one in value) else []
        if all(isinstance(one, bool) for one in value):
            return [[not one for one in value], [at == 1 for at in range(len(value))]]
        if not all(isinstance(one, str) for one in value):
            return [value[::-1], [1, *value[1:]], [*value[:-1], 0]] if kinds else [value[::-1]]
        known = [kind for kind in self._kinds() if kind not in kinds]
        # an order that no rule would give
        mixed = [
            [(kinds[0], kind, kind, kinds[0], kind)[at % 5] for at in range(len(value))] for kind in known
        ]
        turned = [
            value[::-1],
            [*value[1:], value[0]],
            [kinds[0], kinds[-1], kinds[-1], kinds[0]][: len(value)],
        ]
        return [*mixed, *turned, *([kind] * len(value) for kind in [*kinds, *known])]

    def _kinds(self) -> list[str]:
        """Kinds of layers that the library knows and this family's code speaks of."""
        from transformers import configuration_utils

        known = getattr(configuration_utils, "ALLOWED_LAYER_TYPES", (WINDOWED, FULL))
        text = "\n".join(sources(self.family))
        return [kind for kind in known if f'"{kind}"' in text or kind in (WINDOWED, FULL)]

    def _layer_numbers(self) -> list[Any]:
        return [[1], [0], [0, 1]] if self.layers and self.layers > 1 else [[0]]

    def _for_nothing(self, field: Field) -> list[Any]:
        """By the annotation; of what no field declares nothing is known but its name."""
        found: list[Any] = []
        unknown = not field.declared or "Any" in field.kinds
        if unknown and re.search("theta|freq|base", field.name):
            found += [700.0]
        if "list" in field.kinds and "str" in field.kinds and self.layers:
            found += self._by_layer([FULL] * self.layers)
        elif "str" in field.kinds or unknown:
            found += self._said(field.name)
        if "list" in field.kinds and "int" in field.kinds:
            found += self._layer_numbers()
        if "int" in field.kinds or unknown:
            found += [24, 2, 1] if re.search("max|length|window$", field.name) else [2, 1, 24]
        if "float" in field.kinds or unknown:
            found += [1.5 * (self.draw.uniform(0.7, 1.4) if self.fresh else 1.0), 0.4]
        if "bool" in field.kinds or unknown:
            found += [True, False]
        if unknown and field.name.endswith("layer_types") and self.layers:
            found = [[FULL] * self.layers, [WINDOWED] * self.layers]
        return found

    def _said(self, name: str) -> Iterator[str]:
        """Words that the code compares this field with."""
        text = "\n".join(sources(self.family))
        for compared in re.findall(rf"\b{name}\b\s*(?:==|!=|in|not in)\s*([^\n]*)", text):
            yield from re.findall(r"[\"'](\w+)[\"']", compared)
        declared = re.findall(rf"^\s*{name}:[^\n]*Literal\[([^\]]*)\]", text, re.MULTILINE)
        for literal in declared:
            yield from re.findall(r"[\"'](\w+)[\"']", literal)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def apply(values: Values, changes: Values, defaults: Values) -> Values:
    """`values` with each of `changes`: under a dotted name what lies deeper, ABSENT for what is left out.

    `defaults` are what lies above where `values` says nothing.
    """
    found = _copied(values)
    for path, value in changes.items():
        *above, last = path.split(".")
        place = found
        for at, name in enumerate(above):
            if not isinstance(place.get(name), dict):
                place[name] = _copied(_at(defaults, above[: at + 1]) or {})
            place = place[name]
        if value == ABSENT:
            place.pop(last, None)
        else:
            place[last] = _copied(value)
    return found


def _at(values: Any, path: Sequence[str]) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value
