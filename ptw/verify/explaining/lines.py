"""At which line of a port is a module made, or a field read? Its syntax tree says; nothing is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ptw.verify.reports.report import Divergence, Effect, Note

AROUND = 2  # lines of an excerpt, before and after
MOST_LINES = 20
MOST_NOTES = 12
LINE_LENGTH = 160
IN_TRACEBACK = re.compile(r'File "[^"]*/models/(?P<file>[^"/]+\.py)", line (?P<line>\d+)')


def notes(
    file: str,
    text: str,
    divergence: Divergence | None,
    effects: Iterable[Effect],
    others: Sequence[str],
) -> tuple[Note, ...]:
    """Errors at the lines of a failing port: where it diverges, which field it ignores, where it broke."""
    tree, rows = parsed(text), text.splitlines()
    found: list[Note] = []
    # a whole function is shown where nothing tells which of its lines
    ends = {node.lineno: node.end_lineno or 0 for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}

    def add(line: int, words: str, title: str, since: int = 0) -> None:
        line = min(max(line, 1), max(len(rows), 1))
        first = since if 0 < line - since < MOST_LINES else line - AROUND
        last = min(max(line + AROUND, ends.get(line, 0)), line + MOST_LINES)
        near = range(max(1, first), min(len(rows), last) + 1)
        excerpt = tuple((number, rows[number - 1][:LINE_LENGTH]) for number in near)
        if not any(note.line == line and note.title == title for note in found):
            found.append(Note("error", file, line, words, title, excerpt))

    if divergence is not None:
        line = line_of(tree, divergence.culprit, divergence.module)
        since = line_of(tree, divergence.culprit, divergence.culprit)  # where its own arithmetic begins
        add(line, str(divergence), f"first divergence: {divergence.place}", since)
    for effect in effects:
        if effect.verdict in ("ignored", "wrong"):
            add(line_of_field(tree, effect.field), str(effect), f"{effect.field} is {effect.verdict}")
    for words in others:
        line = line_of_words(tree, words, Path(file).name)
        # what follows from a divergence that is shown has no line of its own
        if line or not found:
            add(line or _line_of_definition(tree, "Model"), words, words.splitlines()[0][:LINE_LENGTH])
    return tuple(found[:MOST_NOTES])


def parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):  # said where it is loaded
        return ast.Module(body=[], type_ignores=[])


def line_of(tree: ast.Module, culprit: str, module: str) -> int:
    """Where the culprit is made, or where it calls the part of itself that it gives the wrong thing."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    own, line = classes.get("Model"), _line(classes.get("Model"))
    for part in culprit.split(".") if culprit else ():
        if part.isdigit() or own is None:
            continue
        made = next(_made(own, part), None)
        if made is None:
            return line
        line = made.lineno
        own = next((classes[name] for name in _called(made) if name in classes), None)
    if own is None:  # made of what ptw.nn has: the line says with which arguments
        return line
    part = module.removeprefix(culprit).strip(".").split(".")[0] if module != culprit else ""
    return _line_of_call(own, part) or _line_of_forward(own)


def line_of_field(tree: ast.Module, field: str) -> int:
    """The first line that names the field (of several the first), else the line of Config."""
    names = {name.strip().split(".")[-1] for name in field.split(",")}
    for node in ast.walk(tree):
        written = {getattr(node, name, None) for name in ("id", "attr", "arg")}
        written |= {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()
        if written & names:
            return int(getattr(node, "lineno", 1))
    return _line_of_definition(tree, "Config")


def line_of_words(tree: ast.Module, words: str, file: str) -> int:
    """The last line of this file in a traceback, the weight map for what concerns keys, or 0 for none."""
    places = [int(found["line"]) for found in IN_TRACEBACK.finditer(words) if found["file"] == file]
    if places:
        return places[-1]
    stated = re.search(r"\bline (\d+):", words)
    if stated:
        return int(stated[1])
    of_keys = "export" in words or "round trip" in words
    return _line_of_definition(tree, "weights") if of_keys else 0


def _made(owner: ast.ClassDef, name: str) -> Iterator[ast.Assign]:
    for node in ast.walk(owner):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr == name:
                    yield node


def _called(node: ast.AST) -> Iterator[str]:
    """Names that are called, or handed on to be, such as a class in a choice."""
    return (child.id for child in ast.walk(node) if isinstance(child, ast.Name))


def _line_of_call(owner: ast.ClassDef, part: str) -> int:
    for node in ast.walk(owner):
        called = node.func if isinstance(node, ast.Call) else None
        if part and isinstance(called, ast.Attribute) and called.attr == part:
            return called.lineno
    return 0


def _line_of_forward(owner: ast.ClassDef) -> int:
    for node in owner.body:
        if isinstance(node, ast.FunctionDef) and node.name == "forward":
            return node.lineno
    return owner.lineno


def _line_of_definition(tree: ast.Module, name: str) -> int:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node.lineno
    return 1


def _line(node: ast.AST | None) -> int:
    return int(getattr(node, "lineno", 1))
