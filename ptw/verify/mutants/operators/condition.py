"""A condition turned round, always true, never true, or joined otherwise."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

OPPOSITE = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}


def edits(source: Source) -> Iterator[Edit]:
    for node in ast.walk(source.tree):
        if source.is_text(node):
            continue
        if isinstance(node, ast.If | ast.IfExp):
            for operator, form in (("turn a condition", "(not {})"), ("always", "True"), ("never", "False")):
                yield source.wrapped(operator, node.test, form)
        elif isinstance(node, ast.comprehension):
            for test in node.ifs:
                yield source.wrapped("turn a condition", test, "(not {})")
        elif isinstance(node, ast.BoolOp):
            joined = " or " if isinstance(node.op, ast.And) else " and "
            other = joined.join(source.says(value) for value in node.values)
            yield source.replaced("joined otherwise", node, f"({other})")
            for value in node.values:
                yield source.left("one condition of two", node, value)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPPOSITE:
            left, right = source.says(node.left), source.says(node.comparators[0])
            yield source.replaced("turn a comparison", node, f"{left} {OPPOSITE[type(node.ops[0])]} {right}")
