"""Routers: chosen before or after the softmax, renormalised or not, other experts, other weights."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source


def edits(source: Source) -> Iterator[Edit]:
    for function in source.computing():
        if not any(isinstance(node, ast.Call) and _name(node) == "topk" for node in ast.walk(function)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and _name(node) == "softmax":
                yield from _softmax(source, node)
            elif isinstance(node, ast.Call) and _name(node) == "topk":
                yield source.wrapped(
                    "weights of equals", node, "(lambda t: (t[0] * 0 + t[0].mean(-1, True), t[1]))({})"
                )
                yield source.wrapped("another order", node, "tuple(part.flip(-1) for part in {})")
                yield source.wrapped("weights only reversed", node, "(lambda t: (t[0].flip(-1), t[1]))({})")
                yield source.wrapped("the next expert", node, "(lambda t: (t[0], t[1].roll(1, -1)))({})")
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and "sum" in source.says(node):
                yield source.left("not renormalised", node, node.left)
            elif isinstance(node, ast.AugAssign) and "sum" in source.says(node.value):
                yield source.replaced("not renormalised", node, "pass")


def _softmax(source: Source, node: ast.Call) -> Iterator[Edit]:
    inner = node.func.value if isinstance(node.func, ast.Attribute) else None
    if inner is None or ast.unparse(inner) in ("torch", "functional", "F", "nn.functional"):
        inner = node.args[0]
    said = source.says(inner)
    yield source.left("no softmax", node, inner)
    yield source.replaced("a sigmoid for a softmax", node, f"({said}).sigmoid()")
    yield source.replaced("softmax twice", node, f"({source.says(node)}).softmax(-1)")
    yield source.replaced("softmax in bf16", node, f"({said}).bfloat16().softmax(-1).to(({said}).dtype)")


def _name(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
