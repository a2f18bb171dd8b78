"""What is a family made of? Its parameters, and which of its config's fields matter, as its cases show."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ptw.errors import PtwError
from ptw.verify.cases import Family, Reference, cache_folder, draw

Shapes = Mapping[str, tuple[int, ...]]
PLAIN, PUBLISHED, BASE = "plain", "as published", "field-base"
LONGEST_VALUE = 400


@dataclass(frozen=True)
class Facts:
    """`plain` is a small config.json of it, `shapes` and `published` are the tensors of its checkpoint."""

    model_type: str
    plain: Mapping[str, Any]
    shapes: Shapes
    published: Shapes  # as the Hub has them; empty where the names are the same
    defaults: Mapping[str, Any]  # as they are once the class has worked them out
    declared: Mapping[str, Any]
    fields: Mapping[str, Mapping[str, Any]]  # of each: moved_by, inert, why
    renamed: Mapping[str, str]  # a usual name -> the family's own


def facts(model_type: str, root: Path, folder: Path) -> Facts:
    """From the practice cases, which are drawn into `folder`; they are kept for the gate's practice."""
    reference = Reference()
    try:
        (family,) = draw([model_type], "practice", 0, folder, cache_folder(root), reference)
    finally:
        reference.close()
    if family.error:
        raise PtwError(f"{model_type}: no cases could be drawn from transformers' own class: {family.error}")
    by_name = {str(family.drawn(name)["name"]): name for name in family.names}
    # what of the base is published otherwise is in the other
    published = _shapes(family, by_name[PUBLISHED]) if PUBLISHED in by_name else {}
    same = _shapes(family, by_name[BASE])
    return Facts(
        model_type,
        json.loads((_checkpoint(family, by_name[PLAIN]) / "config.json").read_text()),
        _shapes(family, by_name[PLAIN]),
        {name: shape for name, shape in published.items() if name not in same},
        *_defaults(model_type),
        json.loads((family.folder / "audit.json").read_text())["fields"],
        _renamed(model_type),
    )


def page(found: Facts) -> str:
    """Configuration fields, then parameters, then what checkpoints on the Hub hold otherwise."""
    lines = [
        "# Fields of its config class",
        "",
        "field = default, and what changing it does to the reference's output",
    ]
    lines += _fields(found)
    if found.renamed:
        pairs = ", ".join(f"{usual} -> {own}" for usual, own in found.renamed.items())
        lines += [
            "",
            f"The config class knows these by another name as well (both may stand in config.json): {pairs}",
        ]
    lines += ["", "# A small config.json of it", "", json.dumps(found.plain, indent=1, sort_keys=True)]
    lines += ["", "# The tensors of its checkpoint, with that config.json", ""]
    lines += _compressed(found.shapes)
    if found.published:
        lines += [
            "",
            "# Checkpoints on the Hub hold these in their place; a port reads both (Either, Named)",
            "",
        ]
        lines += _compressed(found.published)
    return "\n".join(lines) + "\n"


def pattern(name: str) -> str:
    """A tensor's name without the numbers of layers and experts."""
    return re.sub(r"\.\d+(?=\.)", ".N", name)


def _fields(found: Facts) -> Iterator[str]:
    for name, default in found.defaults.items():
        entry = found.fields.get(name, {})
        if entry.get("inert") and str(entry.get("why", "")).startswith("every model's"):
            continue
        declared = found.declared.get(name, default)
        before = "" if declared == default else f"{_shown(declared)}, which becomes "
        inner = [
            path for path, one in found.fields.items() if path.startswith(f"{name}.") and one.get("moved_by")
        ]
        moves = "moves it" if entry.get("moved_by") else "moves nothing"
        moves = f"its keys move it ({', '.join(path.split('.', 1)[1] for path in inner)})" if inner else moves
        if str(entry.get("moved_by", "")).endswith("-refused"):
            moves = "the reference can't be run otherwise in exact arithmetic: refuse any other value by name"
        yield f"{name} = {before}{_shown(default)}: {moves}"
    undeclared = [
        name
        for name, entry in found.fields.items()
        if entry.get("moved_by") and name.partition(".")[0] not in found.defaults
    ]
    if undeclared:
        yield f"read by the code without being declared: {', '.join(undeclared)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _compressed(shapes: Shapes) -> Iterator[str]:
    """A line a pattern: which layers have it, and its shape."""
    grouped: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, shape in shapes.items():
        first = re.search(r"\.(\d+)\.", name)
        grouped.setdefault((pattern(name), shape), []).append(first[1] if first else "")
    for (name, shape), numbers in grouped.items():
        layers = [number for number in dict.fromkeys(numbers) if number]
        yield f"{name} {list(shape)}" + (f" for N = {', '.join(layers)}" if layers else "")


def _shapes(family: Family, case: str) -> dict[str, tuple[int, ...]]:
    with safe_open(_checkpoint(family, case) / "model.safetensors", framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _checkpoint(family: Family, case: str) -> Path:
    return family.given / case / "checkpoint"


def _defaults(model_type: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type]()
    fields = dataclasses.fields(config)
    declared = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    return {field.name: getattr(config, field.name, None) for field in fields}, declared


def _renamed(model_type: str) -> dict[str, str]:
    from transformers import CONFIG_MAPPING

    return dict(getattr(CONFIG_MAPPING[model_type], "attribute_map", {}))
