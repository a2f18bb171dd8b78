"""The wrong axis: of a sum, a softmax, a split, a view, a transposition."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

NAMES = ("dim", "axis", "start_dim", "end_dim", "dims")
FIRST = (
    "softmax",
    "sum",
    "mean",
    "transpose",
    "flatten",
    "unflatten",
    "chunk",
    "split",
    "topk",
    "unsqueeze",
    "cat",
)
OTHERS = {-1: ("-2", "1", "0"), -2: ("-1",), 0: ("1", "-1"), 1: ("2", "0"), 2: ("1", "3"), 3: ("2",)}


def edits(source: Source) -> Iterator[Edit]:
    for function in source.computing():
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                named = [keyword.value for keyword in node.keywords if keyword.arg in NAMES]
                placed = list(node.args) if node.func.attr in FIRST else []
                for axis in (*named, *placed):
                    yield from _others(source, axis)
                if node.func.attr == "view":
                    yield source.wrapped("turned before it is cut", node.func.value, "{}.flip(-1)")
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                yield source.wrapped("heads in another order", node.value, "{}.flip(2)")
                yield source.wrapped("tokens late by one", node.value, "{}.roll(1, 1)")


def _others(source: Source, axis: ast.expr) -> Iterator[Edit]:
    try:
        value = ast.literal_eval(axis)
    except ValueError:
        return
    for other in OTHERS.get(value, ()) if type(value) is int else ():
        yield source.replaced("another axis", axis, other)
