"""Another operation: minus for plus, divided for multiplied, and signs turned round."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

OTHERS: dict[type[ast.operator], tuple[str, ...]] = {
    ast.Add: ("-", "*"),
    ast.Sub: ("+",),
    ast.Mult: ("/", "+"),
    ast.Div: ("*",),
    ast.FloorDiv: ("*",),
    ast.Pow: ("*",),
    ast.Mod: ("//",),
}


def edits(source: Source) -> Iterator[Edit]:
    for node in ast.walk(source.tree):
        if source.is_text(node):
            continue
        if isinstance(node, ast.BinOp):
            left, right = source.says(node.left), source.says(node.right)
            for other in OTHERS.get(type(node.op), ()):
                yield source.replaced("another operation", node, f"({left}) {other} ({right})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield source.left("drop a sign", node, node.operand)
    for node in source.tensors():
        yield source.wrapped("turn the sign", node, "-{}")
