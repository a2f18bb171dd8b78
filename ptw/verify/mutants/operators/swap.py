"""Two things of one kind in each other's place: operands, arguments, targets, modules, statements."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import combinations, pairwise

from ptw.verify.mutants.mutation import Edit, Source

ORDERED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)


def edits(source: Source) -> Iterator[Edit]:
    yield from _places(source)
    yield from _modules(source)
    for function in source.computing():
        for first, second in pairwise(function.body):
            if isinstance(first, ast.Assign) and isinstance(second, ast.Assign):
                yield source.swapped("swap statements", first, second)


def _places(source: Source) -> Iterator[Edit]:
    for node in ast.walk(source.tree):
        if source.is_text(node):
            continue
        if isinstance(node, ast.BinOp) and isinstance(node.op, ORDERED):
            yield source.swapped("swap operands", node.left, node.right)
        elif isinstance(node, ast.Call):
            for first, second in pairwise(node.args):
                if not isinstance(second, ast.Starred) and not isinstance(first, ast.Starred):
                    yield source.swapped("swap arguments", first, second)
        elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Store):
            for first, second in combinations(node.elts, 2):
                yield source.swapped("swap targets", first, second)
        elif isinstance(node, ast.Tuple | ast.List) and _in_function(source, node):
            for first, second in pairwise(node.elts):
                yield source.swapped("swap elements", first, second)


def _modules(source: Source) -> Iterator[Edit]:
    """Submodules that are made alike, where they are used: one for the other, and both exchanged."""
    for owner in source.tree.body:
        if not isinstance(owner, ast.ClassDef):
            continue
        made: dict[str, list[str]] = {}
        for node in ast.walk(owner):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                made.setdefault(ast.unparse(node.value), []).append(node.targets[0].attr)
        for names in made.values():
            for first, second in combinations(dict.fromkeys(names), 2):
                uses = [_uses(source, owner, name) for name in (first, second)]
                for found, other in zip(uses, (second, first), strict=True):
                    for use in found:
                        yield source.replaced("one module for another", use, f"self.{other}")
                if all(uses):
                    yield source.swapped("swap modules", uses[0][0], uses[1][0])


def _uses(source: Source, owner: ast.ClassDef, name: str) -> list[ast.Attribute]:
    return [
        node
        for node in ast.walk(owner)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and node.attr == name
        and ast.unparse(node.value) == "self"
    ]


def _in_function(source: Source, node: ast.AST) -> bool:
    while node in source.parents:
        node = source.parents[node]
        if isinstance(node, ast.FunctionDef):
            return True
    return False
