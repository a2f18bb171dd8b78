"""The wrong key: another field of the configuration, of a type that fits."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source


def edits(source: Source) -> Iterator[Edit]:
    fields = source.fields
    for node in ast.walk(source.tree):
        if source.is_text(node):
            continue
        field = source.reads_field(node)
        if field is not None and isinstance(node, ast.Attribute):
            owner = source.says(node.value)
            for other in _alike(fields, field):
                yield source.replaced("another field", node, f"{owner}.{other}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_key(source, node):
            for other in _alike(fields, node.value):
                yield source.replaced("another key", node, f'"{other}"')
            yield source.replaced("a key that nothing bears", node, f'"{node.value}_"')


def _alike(fields: dict[str, str], name: str) -> list[str]:
    kind = fields.get(name, "").removesuffix(" | None")
    return [other for other, of in fields.items() if other != name and of.removesuffix(" | None") == kind]


def _is_key(source: Source, node: ast.Constant) -> bool:
    """What `values.get` and `values[...]` ask for, and the keys of `derived` and `choices`."""
    parent = source.parents.get(node)
    if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute):
        return parent.func.attr in ("get", "pop", "setdefault") and parent.args[:1] == [node]
    if isinstance(parent, ast.Dict):
        return node in parent.keys
    return isinstance(parent, ast.Subscript) and parent.slice is node
