"""What is a mutant of a port, and how do operators make them from its text? A port with one mistake.

An operator family is a file of `operators/` with `edits(source)`: what it would change, wherever it can.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from types import ModuleType

FAMILIES = Path(__file__).resolve().parent / "operators"
BY_HAND = "structural"  # the family that is no operator
TENSOR = re.compile(r".*_[A-Z]{1,5}$")  # names tell their axes
SHOWN = 160  # characters of what stands before and after
ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant, ast.Tuple, ast.List, ast.Dict)


@dataclass(frozen=True)
class Edit:
    """Places of the text (as bytes: start, end) and what stands there instead."""

    operator: str
    changes: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True)
class Mutant:
    port: str
    name: str  # the same for the same mistake in the same place, whatever stands elsewhere
    kind: str  # the file in `operators/` that made it
    operator: str
    line: int
    before: str
    after: str
    text: str


class Source:
    """A port's text and its syntax tree, as operators need it."""

    def __init__(self, port: str, text: str) -> None:
        self.port, self.text = port, text
        self.bytes = text.encode()
        self.tree = ast.parse(text)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self._starts = starts

    def span(self, node: ast.expr | ast.stmt | ast.keyword | ast.arg) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[node.end_lineno - 1] + node.end_col_offset

    def line_of(self, start: int) -> int:
        return self.bytes[:start].count(b"\n") + 1

    def place(self, line: int) -> str:
        """The classes and functions that a line stands in, and how many lines below their first."""
        inside = [node for node in self._defined if node.lineno <= line <= (node.end_lineno or 0)]
        first = max((node.lineno for node in inside), default=0)
        return f"{'.'.join(node.name for node in inside)}:{line - first}"

    @functools.cached_property
    def _defined(self) -> list[ast.FunctionDef | ast.ClassDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]

    def says(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        start, end = self.span(node)
        return self.bytes[start:end].decode()

    def replaced(self, operator: str, node: ast.expr | ast.stmt | ast.keyword, new: str) -> Edit:
        return Edit(operator, ((*self.span(node), new),))

    def wrapped(self, operator: str, node: ast.expr, form: str) -> Edit:
        """The expression inside `form`, where it stands as {}."""
        said = self.says(node)
        return self.replaced(operator, node, form.format(said if isinstance(node, ATOMS) else f"({said})"))

    def left(self, operator: str, node: ast.expr, kept: ast.expr) -> Edit:
        """Of an expression only a part."""
        said = self.says(kept)
        return self.replaced(operator, node, said if isinstance(kept, ATOMS) else f"({said})")

    def swapped(self, operator: str, first: ast.expr | ast.stmt, second: ast.expr | ast.stmt) -> Edit:
        changes = ((*self.span(first), self.says(second)), (*self.span(second), self.says(first)))
        return Edit(operator, changes)

    def without(self, operator: str, nodes: Sequence[ast.expr | ast.keyword], at: int) -> Edit:
        """A list of things without one of them, and without the comma beside it."""
        start, end = self.span(nodes[at])
        if at + 1 < len(nodes):
            end = self.span(nodes[at + 1])[0]
        elif at:
            start = self.span(nodes[at - 1])[1]
        return Edit(operator, ((start, end, ""),))

    def functions(self, *names: str) -> Iterator[ast.FunctionDef]:
        """Those of these names, or all."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef) and (not names or node.name in names):
                yield node

    def computing(self) -> Iterator[ast.FunctionDef]:
        """Functions that take tensors."""
        for function in self.functions():
            if any(
                arg.annotation is not None and "Tensor" in ast.unparse(arg.annotation)
                for arg in function.args.args
            ):
                yield function

    def tensors(self) -> Iterator[ast.expr]:
        """Expressions whose value is one tensor, as their names and places tell."""
        for function in self.computing():
            for node in ast.walk(function):
                if isinstance(node, ast.Return):
                    yield from (value for value in (node.value,) if value is not None)
                elif isinstance(node, ast.Assign) and _is_tensor(node.targets[0]):
                    yield node.value
                elif isinstance(node, ast.Call) and self._calls_a_module(node):
                    yield node
                    yield from (arg for arg in node.args if _is_tensor(arg))
                elif isinstance(node, ast.BinOp) and (_is_tensor(node.left) or _is_tensor(node.right)):
                    yield from (side for side in (node.left, node.right) if _is_tensor(side))

    @functools.cached_property
    def fields(self) -> dict[str, str]:
        """Name -> annotation of the port's Config."""
        return {name: ast.unparse(node.annotation) for name, node in self.field_nodes.items()}

    @functools.cached_property
    def field_nodes(self) -> dict[str, ast.AnnAssign]:
        (config,) = (
            node for node in self.tree.body if isinstance(node, ast.ClassDef) and node.name == "Config"
        )
        return {
            node.target.id: node
            for node in config.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }

    def reads_field(self, node: ast.AST) -> str | None:
        """X of `config.X`, `self.config.X` or `cls.X` if X is a field."""
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in self.fields:
            owner = ast.unparse(node.value)
            return node.attr if owner in ("config", "self.config", "cls") else None
        return None

    def is_text(self, node: ast.AST) -> bool:
        """Part of an error's words, of a docstring or of an annotation: no arithmetic."""
        while node in self.parents:
            parent = self.parents[node]
            if isinstance(parent, ast.JoinedStr | ast.Raise):
                return True
            if isinstance(parent, ast.Expr) and isinstance(node, ast.Constant):
                return True
            if isinstance(parent, ast.arg | ast.AnnAssign) and parent.annotation is node:
                return True
            if isinstance(parent, ast.FunctionDef) and parent.returns is node:
                return True
            node = parent
        return False

    def _calls_a_module(self, node: ast.Call) -> bool:
        return isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self"


def _is_tensor(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and bool(TENSOR.match(node.id))


def mutants_of(port: str, text: str) -> list[Mutant]:
    """What the families make of a port's text, no two alike. Some are no Python: `chosen` leaves them."""
    source = Source(port, text)
    found: dict[str, Mutant] = {}
    for kind, family in families().items():
        for edit in family.edits(source):
            mutant = _applied(source, kind, edit)
            if mutant is not None and mutant.text != text:
                found.setdefault(mutant.text, mutant)
    return list(found.values())


def chosen(mutants: Sequence[Mutant], text: str, most: int) -> list[Mutant]:
    """Those made by hand, and `most` others that parse and mean something else, the same ones each time.

    Evenly over the families, in each over its operators; which ones of an operator, their names decide.
    """
    seen: set[str | None] = {_meaning(text), None}
    taken = list(_new((mutant for mutant in mutants if mutant.kind == BY_HAND), seen))
    kinds = [
        _new(_in_turn([mutant for mutant in mutants if mutant.kind == kind]), seen)
        for kind in sorted({mutant.kind for mutant in mutants} - {BY_HAND})
    ]
    most += len(taken)
    while kinds and len(taken) < most:
        kind = kinds.pop(0)
        mutant = next(kind, None)
        if mutant is not None:
            taken.append(mutant)
            kinds.append(kind)
    return taken


def _in_turn(mutants: Sequence[Mutant]) -> Iterator[Mutant]:
    """One of each operator, then the next of each."""
    groups: dict[str, list[Mutant]] = {}
    for mutant in sorted(mutants, key=lambda mutant: mutant.name):
        groups.setdefault(mutant.operator, []).append(mutant)
    for row in zip_longest(*groups.values()):
        yield from (mutant for mutant in row if mutant is not None)


def _new(mutants: Iterable[Mutant], seen: set[str | None]) -> Iterator[Mutant]:
    for mutant in mutants:
        meaning = _meaning(mutant.text)
        if meaning not in seen:
            seen.add(meaning)
            yield mutant


@functools.cache
def families() -> dict[str, ModuleType]:
    """Name -> module of each operator family: whatever stands in the folder."""
    names = sorted(file.stem for file in FAMILIES.glob("*.py") if file.stem != "__init__")
    return {name: importlib.import_module(f"ptw.verify.mutants.operators.{name}") for name in names}


def _applied(source: Source, kind: str, edit: Edit) -> Mutant | None:
    """None where two changes of one edit lie in each other."""
    changes = sorted(edit.changes)
    if any(first[1] > second[0] for first, second in pairwise(changes)):
        return None
    text, before, after = source.bytes, [], []
    for start, end, new in reversed(changes):
        before.append(text[start:end].decode())
        after.append(new)
        text = text[:start] + new.encode() + text[end:]
    said, says = (" ... ".join(reversed(parts))[:SHOWN] for parts in (before, after))
    # the first change may be an import that the mistake needs
    line = source.line_of(changes[-1][0] if changes[0][0] == changes[0][1] else changes[0][0])
    columns = [start - source.bytes.rfind(b"\n", 0, start) for start, _, _ in changes]
    known_by = (source.place(line), columns, edit.operator, before, after)
    digest = hashlib.sha256(repr(known_by).encode()).hexdigest()
    name = f"{source.port}-{kind}-{digest[:8]}"
    return Mutant(source.port, name, kind, edit.operator, line, said, says, text.decode())


def _meaning(text: str) -> str | None:
    """None for what is no Python."""
    try:
        return hashlib.sha256(ast.dump(ast.parse(text)).encode()).hexdigest()
    except SyntaxError:
        return None
