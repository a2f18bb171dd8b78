"""Which files of ptw does a file depend on? What it imports, and what that imports; nothing is run."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import ptw

PACKAGE = Path(ptw.__file__).resolve().parent


def closure(files: Iterable[Path]) -> tuple[Path, ...]:
    """These files and every module of ptw that they reach, also through imports inside functions."""
    found: set[Path] = set()
    waiting = [file.resolve() for file in files]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(file, file.stat().st_mtime_ns)
    return tuple(sorted(found))


def digest(files: Iterable[Path]) -> str:
    """Of the contents of these files and of all that they reach."""
    hashed = hashlib.sha256()
    for file in closure(files):
        hashed.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return hashed.hexdigest()


@functools.cache
def _imported(file: Path, stamp: int) -> tuple[Path, ...]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # said where it is loaded
        return ()
    return tuple(path for name in _names(tree) for path in _files(name))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name: str) -> Iterator[Path]:
    """The module of a dotted name, or of the longest part of it that is one; packages run their __init__."""
    parts = name.split(".")
    if parts[0] != "ptw":
        return
    for length in range(len(parts), 0, -1):
        place = PACKAGE.joinpath(*parts[1:length])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if length > 1 and file.is_file():
                yield file
                return
