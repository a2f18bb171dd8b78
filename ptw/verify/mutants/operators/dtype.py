"""The wrong precision: a cast to bf16 put in, a cast left out or turned into another."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

WIDE = {"float": "bfloat16", "double": "float"}


def edits(source: Source) -> Iterator[Edit]:
    for node in source.tensors():
        said = source.says(node)
        yield source.replaced("round to bf16", node, f"({said}).bfloat16().to(({said}).dtype)")
        # what computes in fp64 or fp32 is not touched: only a user in bf16 would meet it
        half = f"(({said}).half().to(({said}).dtype) if ({said}).element_size() == 2 else ({said}))"
        yield source.replaced("round to fp16 in bf16", node, half)
    for cast in ast.walk(source.tree):
        if (
            isinstance(cast, ast.Call)
            and isinstance(cast.func, ast.Attribute)
            and cast.func.attr in (*WIDE, "to")
        ):
            yield source.left("drop a cast", cast, cast.func.value)
            if cast.func.attr in WIDE:
                inner = source.says(cast.func.value)
                yield source.replaced("narrower cast", cast, f"{inner}.{WIDE[cast.func.attr]}()")
        elif isinstance(cast, ast.Attribute) and ast.unparse(cast) in ("torch.float32", "torch.float64"):
            yield source.replaced("narrower cast", cast, "torch.bfloat16")
