"""What bounds attention, positions or sizes is a number of the configuration, and none of the port's own.

A window or a context that is longer than every document that is tried shows in no output. So attention is
watched as it is given its bounds, a document is put at positions that none of its length has, and large
numbers may stand in the port's text only where it reads the configuration: in Config, and in what Config
alone uses.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from torch import Tensor

LIMITS = {
    "windows": 0.0,  # windows and caps that attention is given and that are no number of the configuration
    "positions": 1e-10,  # relative: honest ports measure 3e-15
    "numbers": 0.0,  # large numbers of the text outside of Config
}
LARGE = 17  # smaller ones are axes, halves and the like
FOLDS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda first, second: first + second,
    ast.Sub: lambda first, second: first - second,
    ast.Mult: lambda first, second: first * second,
    ast.Div: lambda first, second: first / second,
    ast.FloorDiv: lambda first, second: first // second,
    ast.Pow: lambda first, second: first**second,
    ast.LShift: lambda first, second: first * 2**second,
}


def told() -> str:
    """For whoever writes a port."""
    return f"outside of Config, and of what Config alone uses, no number is {LARGE} or larger"


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """given: the bounds that the port's attention is given; known: the numbers of the reference's config.

    far: (T, V), the document at positions far beyond its length; the reference leaves out what it has not.
    """
    if not len(inputs.get("nudged", ())):  # the thorough cases have it
        return {}
    model = subject.exact()
    found = {"known" if subject.is_reference else "given": model.bounds(inputs["nudged"])}
    far = model.far(inputs["nudged"], int(inputs["far"]))
    return found if subject.is_reference and not len(far) else found | {"far": far}


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "known" not in theirs:
        return {}
    return {
        "positions": _moved(ours["far"], theirs["far"]) if "far" in theirs else 0.0,
        "windows": float(len(_unknown(ours, theirs))),
        "numbers": float(len(numbers(_source(ours)))),
    }


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Which, and where."""
    said = [
        f"attention is bounded by {bound:g}, which is no number of the configuration"
        for bound in _unknown(ours, theirs)
    ]
    return said + [
        f"line {line}: {number:g} stands outside of Config: what it bounds is the configuration's to say"
        for line, number in numbers(_source(ours))
    ]


def _moved(ours_TV: Tensor, theirs_TV: Tensor) -> float:
    """How far the worst position is off."""
    return float(((ours_TV - theirs_TV).norm(dim=-1) / theirs_TV.norm(dim=-1)).max())


def _unknown(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[float]:
    return sorted(set(ours["given"].tolist()) - set(theirs["known"].tolist()))


def _source(ours: dict[str, Tensor]) -> bytes:
    return bytes(ours["source"].tolist())


@cache
def numbers(source: bytes) -> tuple[tuple[int, float], ...]:
    """Line and value of the large numbers that the model's own classes, or `weights`, reach."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # said by another
        return ()
    places = {name: node for node in tree.body for name in _defined(node)}
    waiting = [name for name, node in places.items() if isinstance(node, ast.ClassDef) or name == "weights"]
    reached: set[str] = {"Config"}
    found: set[tuple[int, float]] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [
                part.id for part in ast.walk(places[name]) if isinstance(part, ast.Name) and part.id in places
            ]
            found |= set(_large(places[name]))
    return tuple(sorted(found))


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [part.id for one in targets if one for part in ast.walk(one) if isinstance(part, ast.Name)]


def _large(node: ast.AST) -> Iterator[tuple[int, float]]:
    """The outermost expressions that come to a large number."""
    number = _folded(node)
    if number is not None:
        if abs(number) >= LARGE:
            yield getattr(node, "lineno", 1), number
        return
    for part in ast.iter_child_nodes(node):
        yield from _large(part)


def _folded(node: ast.AST) -> float | None:
    """The number that it comes to, where it is written out of numbers alone."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _folded(node.operand)
        return None if inner is None else -inner
    if not isinstance(node, ast.BinOp) or type(node.op) not in FOLDS:
        return None
    first, second = _folded(node.left), _folded(node.right)
    if first is None or second is None:
        return None
    try:
        return float(FOLDS[type(node.op)](first, second))
    except (ArithmeticError, ValueError, TypeError):
        return math.inf
