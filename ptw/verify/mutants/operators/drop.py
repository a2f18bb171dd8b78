"""Something left out: a term, a factor, a norm, a residual, a cast, an option, a statement."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source


def edits(source: Source) -> Iterator[Edit]:
    for function in source.computing():
        for node in ast.walk(function):
            if source.is_text(node):
                continue
            if isinstance(node, ast.BinOp):
                yield source.left("drop the right operand", node, node.left)
                yield source.left("drop the left operand", node, node.right)
            elif isinstance(node, ast.Call):
                yield from _call(source, node)
    yield from _options(source)
    yield from _statements(source)


def _call(source: Source, node: ast.Call) -> Iterator[Edit]:
    """f(x, ...) becomes x; x.f(...) becomes x."""
    if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in ("self", "torch", "nn"):
        yield source.left("drop a method", node, node.func.value)
    if node.args and not isinstance(node.args[0], ast.Starred):
        yield source.left("drop a function", node, node.args[0])


def _options(source: Source) -> Iterator[Edit]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and not source.is_text(node):
            for keyword in node.keywords:
                things: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
                yield source.without("drop an option", things, things.index(keyword))
        elif isinstance(node, ast.Dict) and len(node.keys) > 1:
            for at, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
                if key is not None:
                    start, end = source.span(key)[0], source.span(value)[1]
                    after = node.keys[at + 1] if at + 1 < len(node.keys) else None
                    end = source.span(after)[0] if after is not None else end
                    yield Edit("drop an entry", ((start, end, ""),))


def _statements(source: Source) -> Iterator[Edit]:
    """Also in __init__, `weights` and `from_hf`; a docstring is none."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if "super()" not in source.says(node):
                yield source.replaced("drop a statement", node, "pass")
        elif isinstance(node, ast.AugAssign):
            yield source.replaced("drop a statement", node, "pass")
        elif isinstance(node, ast.If) and not node.orelse:
            start, end = source.span(node)
            yield Edit("drop a statement", ((start, end, "pass"),))
        elif isinstance(node, ast.Assign) and _again(source, node):
            yield source.replaced("drop a statement", node, "pass")


def _again(source: Source, node: ast.Assign) -> bool:
    """Whether the name had a value before."""
    target = ast.unparse(node.targets[0])
    return any(
        isinstance(child, ast.Name | ast.Attribute) and ast.unparse(child) == target
        for child in ast.walk(node.value)
    ) or isinstance(node.targets[0], ast.Attribute)
