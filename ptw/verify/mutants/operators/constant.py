"""A constant where a field should be read: its default, as if no checkpoint said otherwise."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

FREE = {"bool": ("True", "False"), "float": ("1.0",), "int": ("1",), "str": ()}


def edits(source: Source) -> Iterator[Edit]:
    nodes = source.field_nodes
    defaults = {name: source.says(node.value) for name, node in nodes.items() if node.value is not None}
    for node in ast.walk(source.tree):
        field = source.reads_field(node)
        if field is not None and isinstance(node, ast.Attribute) and not source.is_text(node):
            kind = source.fields[field].removesuffix(" | None")
            values = dict.fromkeys([defaults.get(field, "None"), *FREE.get(kind, ())])
            # `cls.FIELD` is its default already
            for value in values if ast.unparse(node.value) != "cls" else FREE.get(kind, ()):
                yield source.replaced("constant for a field", node, value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            if len(node.args) == 2:
                yield source.left("default for a key", node, node.args[1])
            else:
                yield source.replaced("nothing for a key", node, "None")
