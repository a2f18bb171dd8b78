"""The projection to the vocabulary: another matrix, scale, cap or number of rows, a tie forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source


def edits(source: Source) -> Iterator[Edit]:
    for function in source.functions("head"):
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Head":
                yield from _head(source, node)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "padded_rows":
            yield source.replaced("rows not padded", node, source.says(node.args[0]))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("lm_head.weight"):
            yield source.replaced(
                "a copy for a tie", node.value, f"nn.Parameter({source.says(node.value)}.clone())"
            )


def _head(source: Source, node: ast.Call) -> Iterator[Edit]:
    weight, rows = node.args[0], node.args[1]
    yield source.wrapped("head scaled", weight, "{} * 1.01")
    yield source.wrapped("head detached", weight, "{}.detach()")
    yield source.wrapped("head in bf16", weight, "{}.bfloat16().to(self.lm_head.weight.dtype)")
    yield source.replaced("rows of padding", rows, "len(self.lm_head.weight)")
    yield source.wrapped("a row too few", rows, "{} - 1")
    given = {keyword.arg for keyword in node.keywords}
    end = source.span(node)[1] - 1
    if "divisor" not in given:
        yield Edit("logits divided", ((end, end, ", divisor=1.01"),))
    if "cap" not in given:
        yield Edit("logits capped", ((end, end, ", cap=50.0"),))
    for keyword in node.keywords:
        yield source.wrapped("scale of the head", keyword.value, "({0} and {0} * 1.01)")
        yield source.wrapped(
            "loss without it", keyword.value, "({0} if not self.lm_head.weight.requires_grad else {0})"
        )
