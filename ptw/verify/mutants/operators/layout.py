"""Documents, positions and cache misused: seen across, late, shifted, forgotten, of another layer."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

REPLACE = "from dataclasses import replace as _replace\n"
# what is done to the layout before the model runs
BEFORE = {
    "positions from 1": "layout = _replace(layout, positions_BT=layout.positions_BT + 1, _masks={})",
    "positions run on": "layout = _replace(layout, positions_BT=torch.arange(layout.width).expand_as("
    "layout.positions_BT), _masks={}) if cache is None else layout",
    "positions doubled": "layout = _replace(layout, positions_BT=layout.positions_BT * 2, _masks={})",
    "positions of steps late": "layout = _replace(layout, positions_BT=layout.positions_BT + 1, _masks={}) "
    "if layout.backend == 'cache' and layout.width == 1 else layout",
    "documents seen across": "layout = Layout.of_documents([[sum(row)] for row in layout.lengths], "
    "layout.width, backend=layout.backend) if cache is None else layout",
    "documents seen across, positions right": "layout = _replace(layout, documents_BT="
    "layout.documents_BT.clamp(max=0), lengths=tuple((sum(row),) for row in layout.lengths), _masks={}) "
    "if cache is None else layout",
    "the last document unmasked": "layout = _replace(layout, documents_BT=layout.documents_BT.where("
    "layout.documents_BT < layout.documents_BT.max(), layout.documents_BT.max() - 1), _masks={}) "
    "if cache is None and layout.backend == 'dense' else layout",
    "padding seen": "layout = _replace(layout, documents_BT=layout.documents_BT.clamp(min=0), _masks={}) "
    "if layout.backend == 'dense' else layout",
    "lengths rounded": "layout = _replace(layout, lengths=tuple(tuple(64 * -(-n // 64) for n in row) "
    "for row in layout.lengths), _masks={}) if layout.backend == 'cache' else layout",
    "first row for all": "layout = _replace(layout, positions_BT=layout.positions_BT[:1].expand_as("
    "layout.positions_BT), _masks={})",
    "cut at 256 tokens": "ids_BT = ids_BT[:, :256]",
    "tokens wrapped": "ids_BT = ids_BT % (self.config.vocab_size - 1)",
}


def edits(source: Source) -> Iterator[Edit]:
    top = source.span(source.tree.body[2])[0]
    for function in source.functions("forward"):
        names = [arg.arg for arg in function.args.args]
        if names[:3] == ["self", "ids_BT", "layout"] and "Model" in _owner(source, function):
            start = source.span(function.body[0])[0]
            indent = " " * function.body[0].col_offset
            for operator, text in BEFORE.items():
                yield Edit(
                    operator, ((top, top, f"import torch\n{REPLACE}"), (start, start, f"{text}\n{indent}"))
                )
    yield from _calls(source)


def _calls(source: Source) -> Iterator[Edit]:
    for function in source.computing():
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            for arg in (*node.args, *(keyword.value for keyword in node.keywords)):
                said = source.says(arg)
                if said in ("cache", "layer_cache"):
                    yield source.replaced("cache forgotten", arg, "None")
                elif said.endswith("window"):
                    yield source.replaced("window forgotten", arg, "None")
                    yield source.replaced("window of every layer", arg, f"({said} or 8)")
            if ast.unparse(node.func) == "layers_of":
                yield source.wrapped("caches in another order", node, "list(reversed({}))")
                yield source.wrapped("one cache for all layers", node, "[{}[0]] * len(self.layers)")
            elif ast.unparse(node.func) == "zip":
                yield source.wrapped("layers in another order", node.args[0], "reversed({})")
                yield source.wrapped("a layer left out", node.args[0], "[*{}][:-1] + [lambda h, *_: h]")


def _owner(source: Source, node: ast.AST) -> str:
    parent = source.parents[node]
    return parent.name if isinstance(parent, ast.ClassDef) else ""
