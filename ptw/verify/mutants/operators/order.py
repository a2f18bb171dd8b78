"""The wrong order: of a norm and a rotation, of an activation and a product, of two steps."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source


def edits(source: Source) -> Iterator[Edit]:
    for function in source.computing():
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            inner = node.args[0]
            if isinstance(inner, ast.Call) and inner.args:
                outer_name, inner_name = source.says(node.func), source.says(inner.func)
                rest, inner_rest = _rest(source, node), _rest(source, inner)
                first = source.says(inner.args[0])
                new = f"{inner_name}({outer_name}({first}{rest}){inner_rest})"
                yield source.replaced("the inner one last", node, new)
            elif isinstance(inner, ast.BinOp):
                name, left, right = map(source.says, (node.func, inner.left, inner.right))
                yield source.replaced(
                    "of one operand only", node, f"({name}({left}) {_sign(inner)} ({right}))"
                )


def _rest(source: Source, node: ast.Call) -> str:
    parts: list[ast.expr | ast.keyword] = [*node.args[1:], *node.keywords]
    return "".join(f", {source.says(part)}" for part in parts)


def _sign(node: ast.BinOp) -> str:
    signs = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**", ast.MatMult: "@"}
    return signs.get(type(node.op), "*")
