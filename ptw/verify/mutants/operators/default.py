"""Another default: what a checkpoint means that leaves the field out."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source


def edits(source: Source) -> Iterator[Edit]:
    for node in source.field_nodes.values():
        if node.value is None:
            continue
        for other in _others(node.value):
            yield source.replaced("another default", node.value, other)


def _others(node: ast.expr) -> list[str]:
    value = ast.literal_eval(node)
    if isinstance(value, bool):
        return [repr(not value)]
    if isinstance(value, int):
        return [repr(value + 1), repr(2 * value)]
    if isinstance(value, float):
        return [repr(10 * value) if value else "0.1"]
    if isinstance(value, str):
        return ['"relu"'] if value != "relu" else ['"silu"']
    return ["1"] if value is None else []
