"""Off by one: constants, windows, bounds of slices and ranges, counts; and comparisons at their border."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

BORDER = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}


def edits(source: Source) -> Iterator[Edit]:
    for node in ast.walk(source.tree):
        if source.is_text(node) or _is_default(source, node):
            continue
        if isinstance(node, ast.Constant) and type(node.value) is int:
            for step in (1, -1):
                yield source.replaced("constant off by one", node, f"({node.value + step})")
        elif isinstance(node, ast.Attribute) and _counts(source, node):
            for sign in ("+ 1", "- 1"):
                said = source.says(node)
                yield source.replaced("count off by one", node, f"({said} and {said} {sign})")
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in BORDER and len(node.ops) == 1:
            left, right = source.says(node.left), source.says(node.comparators[0])
            yield source.replaced(
                "border of a comparison", node, f"{left} {BORDER[type(node.ops[0])]} {right}"
            )


def _counts(source: Source, node: ast.Attribute) -> bool:
    """A field that is a whole number, or an attribute that carries one."""
    field = source.reads_field(node)
    if field is not None:
        return "int" in source.fields[field] and "tuple" not in source.fields[field]
    words = ("window", "width", "dim", "rank", "top_k", "experts", "groups", "heads")
    is_own = ast.unparse(node.value) == "self" and isinstance(node.ctx, ast.Load)
    return is_own and any(word in node.attr for word in words)


def _is_default(source: Source, node: ast.AST) -> bool:
    return isinstance(source.parents.get(node), ast.AnnAssign)
