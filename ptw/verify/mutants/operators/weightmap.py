"""The weight map: names exchanged, operators left out, pieces in another order, a bias or a tie forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from ptw.verify.mutants.mutation import Edit, Source

NAME = (
    "Same",
    "Rename",
    "Fuse",
    "Split",
    "Stack",
    "Transpose",
    "PadVocabulary",
    "Tied",
    "Absent",
    "linear",
    "Named",
)


def edits(source: Source) -> Iterator[Edit]:
    for function in _mapping(source):
        for node in ast.walk(function):
            if isinstance(node, ast.List | ast.Tuple) and len(node.elts) > 1:
                for at in range(len(node.elts)):
                    yield source.without("drop an operator", list(node.elts), at)
                for first, second in pairwise(node.elts):
                    yield source.swapped("exchange names", first, second)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in NAME:
                yield from _operator(source, node)
    yield from _crossed(source)


def _operator(source: Source, node: ast.Call) -> Iterator[Edit]:
    called = ast.unparse(node.func)
    said = [source.says(arg) for arg in node.args]
    if called == "linear":
        yield source.replaced("bias forgotten", node, f"linear({said[0]})")
        yield source.replaced("bias put in", node, f"linear({said[0]}, True)")
    elif called in ("Fuse", "Split", "Stack"):
        for arg in node.args:
            if isinstance(arg, ast.Tuple | ast.Name | ast.Call | ast.Attribute):
                yield source.wrapped("pieces in another order", arg, "tuple(reversed({}))")
    elif called == "Tied":
        yield source.replaced("a tie undone", node, f"PadVocabulary({said[0]}, config.vocab_size)")
    elif called == "PadVocabulary":
        yield source.replaced("rows not padded", node, f"Same({said[0]})")
    elif called == "Absent":
        yield source.replaced("read what is absent", node, f"Same({said[0]})")
    for first, second in pairwise(node.args):
        yield source.swapped("exchange names", first, second)


def _crossed(source: Source) -> Iterator[Edit]:
    """Two of one shape filled from each other: the map is complete, and wrong."""
    calls = [
        node
        for function in _mapping(source)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Same", "linear") and node.args
    ]
    for first, second in pairwise(calls):
        names = [source.says(call.args[0]) for call in (first, second)]
        if names[0] != names[1] and all(ast.unparse(call.func) == "Same" for call in (first, second)):
            rename = "__import__('ptw.ports.weights', fromlist=['Rename']).Rename"
            rename = "Rename" if "Rename" in source.text else rename
            changes = (
                (*source.span(first), f"{rename}({names[0]}, {names[1]})"),
                (*source.span(second), f"{rename}({names[1]}, {names[0]})"),
            )
            yield Edit("filled from each other", changes)


def _mapping(source: Source) -> Iterator[ast.FunctionDef]:
    for function in source.functions():
        if function.returns is not None and "Operator" in ast.unparse(function.returns):
            yield function
