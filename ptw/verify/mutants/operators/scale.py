"""By one percent or ten times too much: constants, fields, scales, and what flows through."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

FACTORS = ("1.01", "10.0", "0.5")


def edits(source: Source) -> Iterator[Edit]:
    for node in ast.walk(source.tree):
        if source.is_text(node) or isinstance(source.parents.get(node), ast.AnnAssign):
            continue
        if isinstance(node, ast.Constant) and type(node.value) is float:
            yield from _times(source, "scale a constant", node)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            yield from _times(source, "scale a power", node)
        elif isinstance(node, ast.Attribute) and _is_number(source, node):
            yield from _times(source, "scale a field", node)
    for node in source.tensors():
        yield source.wrapped("scale a tensor", node, "{} * 1.01")


def _times(source: Source, operator: str, node: ast.expr) -> Iterator[Edit]:
    said = source.says(node)
    for factor in FACTORS:
        yield source.replaced(operator, node, f"({said} and {factor} * ({said}))")


def _is_number(source: Source, node: ast.Attribute) -> bool:
    field = source.reads_field(node)
    if field is not None:
        return "float" in source.fields[field]
    words = ("scale", "eps", "multiplier", "factor", "alpha", "limit", "cap")
    is_own = ast.unparse(node.value) == "self" and isinstance(node.ctx, ast.Load)
    return is_own and any(word in node.attr for word in words) and not _is_called(source, node)


def _is_called(source: Source, node: ast.AST) -> bool:
    parent = source.parents.get(node)
    return isinstance(parent, ast.Call) and parent.func is node
