"""A port computes one way: in every dtype, in training, asked again; nothing outlives a call of it.

By its text: only settings choose the way where tensors are, and nothing is changed that was not made in the
same call. By running it: the same lines, the same bits.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

LIMITS = {
    "violations": 0.0,  # of the rules, in the port's text
    "lines": 0.0,  # lines of the port that run in one of fp64, fp32 and bf16 and not in another
    "again": 0.0,  # logits that differ by a bit when asked again, or of a model opened anew
    "training": 0.0,  # logits that differ by a bit in train(), where the reference's do not
    "unseen": 1e-10,  # relative, on a document of a length that no other verifier asks about
}
RUNS = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}

Found = Iterator[tuple[ast.AST, str]]
Parents = dict[ast.AST, ast.AST]
STATEMENTS = {
    ast.Try: "try", ast.TryStar: "try", ast.With: "with", ast.Global: "global", ast.Nonlocal: "nonlocal",
    ast.Delete: "del", ast.Yield: "yield", ast.YieldFrom: "yield", ast.Await: "await",
    ast.AsyncFunctionDef: "async", ast.AsyncWith: "async", ast.AsyncFor: "async",
}  # fmt: skip
CHANGES = {"append", "extend", "insert", "update", "setdefault", "pop", "popitem", "clear", "remove", "add"}
CHANGES |= {"discard", "sort", "reverse"}  # of lists, dictionaries and sets; of tensors all that end in _
MADE = (
    ast.Call,
    ast.BinOp,
    ast.List,
    ast.Dict,
    ast.Set,
    ast.ListComp,
    ast.DictComp,
    ast.SetComp,
    ast.Constant,
)
IN_TORCH = {*dir(Tensor), *dir(nn.Module)}
HANDED_ON = {"dtype", "device", "training"}  # and not looked at
DATA = re.compile(r"Tensor|Layout|Rotation|Cache|Module|^Any$|^object$")  # annotations of what is no setting


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """unseen: (T, V); trained: whether train() changes anything; of the port again and lines.DTYPE, too."""
    if not len(inputs.get("nudged", ())):  # the thorough cases have it
        return {}
    model, (document, other) = subject.exact(), _documents(inputs["ids"])
    first = model.logits(document)
    found = {"unseen": first, "trained": _differing(first, _in_training(model, document))}
    if subject.is_reference:
        return found
    model.logits(other)
    again = _differing(first, model.logits(document)) + _differing(first, subject.anew().logits(document))
    lines = {f"lines.{name}": subject.at(dtype).lines(other) for name, dtype in RUNS.items()}
    return found | lines | {"again": again}


def _documents(ids: Tensor) -> tuple[Tensor, Tensor]:
    """All tokens as one document, of a length that hangs on what they are; and a short one."""
    longest = min(len(ids), 131)
    return ids[: longest - int(ids.sum() % 29)], ids[-23:]


def _in_training(model: Any, document: Tensor) -> Tensor:
    torch.manual_seed(0)
    model.module.train()
    try:
        logits: Tensor = model.logits(document)
    finally:
        model.module.eval()
    return logits


def _differing(first: Tensor, second: Tensor) -> Tensor:
    return (first != second).sum().double()


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "unseen" not in theirs:
        return {}
    relative = (ours["unseen"] - theirs["unseen"]).norm(dim=-1) / theirs["unseen"].norm(dim=-1)
    has_dropout = bool(theirs["trained"])
    return {
        "violations": float(len(violations(_source(ours)))),
        "lines": float(len(_uneven(ours))),
        "again": float(ours["again"]),
        "training": 0.0 if has_dropout else float(ours["trained"]),
        "unseen": relative.max().item(),
    }


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Line by line, with what would do."""
    said = [f"line {line}: {text}" for line, text in violations(_source(ours))]
    for line, have in _uneven(ours).items():
        said.append(
            f"line {line}: it runs in {' and '.join(have)} only; a port computes alike in every dtype"
        )
    if ours["again"] != 0:
        said.append(
            "the same document gives other logits the second time; a port keeps nothing between calls"
        )
    if not (ours["trained"] == 0 or bool(theirs["trained"])):
        said.append("train() changes the logits, which in the reference it does not")
    return said


def _uneven(ours: dict[str, Tensor]) -> dict[int, list[str]]:
    """Lines that do not run in every dtype, and in which they do."""
    ran = {name: set(ours[f"lines.{name}"].tolist()) for name in RUNS}
    uneven = sorted(set().union(*ran.values()) - set.intersection(*ran.values()))
    return {line: [name for name in RUNS if line in ran[name]] for line in uneven}


def _source(ours: dict[str, Tensor]) -> bytes:
    return bytes(ours["source"].tolist())


@cache
def violations(source: bytes) -> tuple[tuple[int, str], ...]:
    """Line and text of all that the rules find."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        return ((getattr(error, "lineno", None) or 1, f"it is not Python: {error}"),)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    rules: tuple[Callable[..., Found], ...] = (_statements, _changes, _branches, _looks)
    found = {(getattr(node, "lineno", 1), text) for rule in rules for node, text in rule(tree, parents)}
    return tuple(sorted(found))


def _statements(tree: ast.Module, parents: Parents) -> Found:
    for node in ast.walk(tree):
        if type(node) in STATEMENTS:
            yield node, f"`{STATEMENTS[type(node)]}`; a port has one way to compute, and lets errors through"


def _changes(tree: ast.Module, parents: Parents) -> Found:
    """What outlives a call must not change in it."""
    for node in ast.walk(tree):
        changed: ast.expr | None = None
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            base = ast.unparse(node.value)
            shared = node.attr in ("weight", "bias") and base.startswith("self.")
            if not (_function(node, parents, "__init__") and (base == "self" or shared)):
                text = f"{ast.unparse(node)} is set outside of __init__; a port keeps nothing between calls"
                yield node, text
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            changed = node.value
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            changed = node.target
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr if ast.unparse(node.func) != "cache.extend" else ""  # that is its purpose
            if name in CHANGES or (name.endswith("_") and name in IN_TORCH):
                changed = node.func.value
        if changed is not None and not _is_fresh(changed, parents):
            yield node, f"{ast.unparse(changed)} is changed, but not made, in this function; make a new one"


def _is_fresh(node: ast.expr, parents: Parents) -> bool:
    """A result, or a local name that only ever stands for what was made in the same function."""
    if isinstance(node, ast.Call):
        return True
    function = _function(node, parents)
    if not isinstance(node, ast.Name) or not isinstance(function, ast.FunctionDef):
        return False
    if any(isinstance(one, ast.arg) and one.arg == node.id for one in ast.walk(function)):
        return False
    stored = [one for one in ast.walk(function) if isinstance(one, ast.Name) and one.id == node.id]
    makers = [parents[one] for one in stored if isinstance(one.ctx, ast.Store)]
    values = [one.value for one in makers if isinstance(one, ast.Assign | ast.AnnAssign)]
    rest = [one for one in makers if not isinstance(one, ast.Assign | ast.AnnAssign | ast.AugAssign)]
    return bool(values) and not rest and all(isinstance(value, MADE) for value in values)


def _function(node: ast.AST, parents: Parents, name: str = "") -> ast.AST | None:
    """The function or lambda around a node, if it has this name (or any)."""
    while not isinstance(node, ast.FunctionDef | ast.Lambda | ast.Module):
        node = parents[node]
    if name:
        return node if isinstance(node, ast.FunctionDef) and node.name == name else None
    return node


def _branches(tree: ast.Module, parents: Parents) -> Found:
    """Where tensors are handled, only settings and what is absent choose the way."""
    for node in ast.walk(tree):
        tests: list[ast.expr] = []
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            tests = [node.test]
        elif isinstance(node, ast.Match):
            tests = [node.subject]
        elif isinstance(node, ast.comprehension):
            tests = node.ifs
        elif isinstance(node, ast.BoolOp):
            tests = node.values
        for test in tests if tests and _handles_tensors(node, parents) else ():
            if not _is_setting(test, parents):
                text = f"a branch on `{ast.unparse(test)}`; where tensors are, only settings choose the way"
                yield test, text


def _handles_tensors(node: ast.AST, parents: Parents) -> bool:
    """Inside a function, or one within it, that is given more than settings."""
    while not isinstance(node, ast.Module):
        if isinstance(node, ast.Lambda):
            return True
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            arguments = [one for one in ast.walk(node.args) if isinstance(one, ast.arg)]
            if any(one.annotation and DATA.search(ast.unparse(one.annotation)) for one in arguments):
                return True
        node = parents[node]
    return False


def _is_setting(test: ast.expr, parents: Parents) -> bool:
    if isinstance(test, ast.Compare) and all(
        isinstance(operator, ast.Is | ast.IsNot) for operator in test.ops
    ):
        return all(isinstance(one, ast.Constant) and one.value is None for one in test.comparators)
    if isinstance(test, ast.BoolOp | ast.Compare | ast.UnaryOp | ast.BinOp):
        parts = [part for part in ast.iter_child_nodes(test) if isinstance(part, ast.expr)]
        return all(_is_setting(part, parents) for part in parts)
    if isinstance(test, ast.Attribute):
        root, *names = ast.unparse(test).split(".")
        return root in ("self", "config") and not IN_TORCH & set(names)
    if isinstance(test, ast.Name):
        function = _function(test, parents)
        given = (
            [one for one in ast.walk(function) if isinstance(one, ast.arg) and one.arg == test.id]
            if function
            else []
        )
        plain = any(one.annotation and not DATA.search(ast.unparse(one.annotation)) for one in given)
        return test.id.isupper() or plain
    return isinstance(test, ast.Constant)


def _looks(tree: ast.Module, parents: Parents) -> Found:
    """A dtype, a device and the mode are handed on to torch, and nothing else is done with them."""
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and _is_handed_on(node.value)]
    taken = {ast.unparse(node.targets[0]) for node in assigned}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "finfo":
            used = parents[parents[node]]
            if not (isinstance(used, ast.Attribute) and used.attr in ("min", "max")):
                yield node, "of torch.finfo(...) a port may use min and max"
        is_taken = isinstance(node, ast.Name) and node.id in taken and isinstance(node.ctx, ast.Load)
        if not (is_taken or _is_handed_on(node)):
            continue
        parent = parents[node]
        call = parents[parent] if isinstance(parent, ast.keyword) else parent
        handed = isinstance(call, ast.Call) and node is not call.func and isinstance(call.func, ast.Attribute)
        if not handed and not (isinstance(parent, ast.Assign) and isinstance(parent.targets[0], ast.Name)):
            yield (
                node,
                f"`{ast.unparse(node)}` is looked at; a port computes alike in every dtype, place and mode",
            )


def _is_handed_on(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute):
        return False
    if ast.unparse(node.value) == "torch":
        return isinstance(getattr(torch, node.attr, None), torch.dtype)
    return node.attr in HANDED_ON
