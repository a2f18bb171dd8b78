"""A gradient that does not flow, or flows otherwise: values are the same to the bit."""

from __future__ import annotations

from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source


def edits(source: Source) -> Iterator[Edit]:
    for node in source.tensors():
        said = source.says(node)
        yield source.wrapped("detach", node, "{}.detach()")
        # x + (x - x.detach()): the value of x, twice its gradient
        doubled = f"(({said}) + (({said}) - ({said}).detach()))"
        yield source.replaced("gradient twice", node, doubled)
