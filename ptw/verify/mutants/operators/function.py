"""Another function: a sigmoid for a softmax, a mean for a sum, a maximum for a minimum, one more expert."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ptw.verify.mutants.mutation import Edit, Source

OTHERS = {
    "softmax": ("log_softmax",),
    "sigmoid": ("tanh",),
    "tanh": ("sigmoid",),
    "silu": ("relu",),
    "gelu": ("relu",),
    "sum": ("mean",),
    "mean": ("sum",),
    "amax": ("amin",),
    "rsqrt": ("sqrt",),
    "cos": ("sin",),
    "sin": ("cos",),
    "RMSNorm": ("CentredRMSNorm", "nn.LayerNorm"),
    "CentredRMSNorm": ("RMSNorm",),
    "LayerNorm": ("RMSNorm",),
    "ScaledEmbedding": ("nn.Embedding",),
}
IMPORTS = "from ptw.nn.norm import CentredRMSNorm, RMSNorm\n"


def edits(source: Source) -> Iterator[Edit]:
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        for other in OTHERS.get(name, ()):
            yield _called(source, node, other)
        if name == "topk":
            yield from _chosen(source, node)
        elif name == "clamp":
            for keyword in node.keywords:
                other = "max" if keyword.arg == "min" else "min"
                yield source.replaced(
                    "clamped on the other side", keyword, f"{other}={source.says(keyword.value)}"
                )
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "ACTIVATIONS":
            for other in ("gelu", "gelu_pytorch_tanh", "silu", "relu"):
                yield source.replaced("another activation", node.slice, f'"{other}"')


def _called(source: Source, node: ast.Call, other: str) -> Edit:
    """Under its new name; what that needs is imported."""
    if other in ("CentredRMSNorm", "RMSNorm"):
        start = source.span(source.tree.body[2])[0]
        return Edit("another function", ((start, start, IMPORTS), (*source.span(node.func), other)))
    name = other if "." in other or isinstance(node.func, ast.Name) else _renamed(source, node.func, other)
    return source.replaced("another function", node.func, name)


def _renamed(source: Source, node: ast.expr, other: str) -> str:
    return source.says(node).rpartition(".")[0] + f".{other}"


def _chosen(source: Source, node: ast.Call) -> Iterator[Edit]:
    counts = [arg for arg in node.args if not isinstance(arg, ast.Starred)]
    counts += [keyword.value for keyword in node.keywords if keyword.arg == "k"]
    for count in counts:
        for step in ("+ 1", "- 1"):
            yield source.wrapped("one more, one less", count, f"({{}} {step})")
    yield source.replaced("the smallest", node, source.says(node)[:-1] + ", largest=False)")
