"""What does workspace.toml hold, and on which line is each key?"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.workspace.lines import key_lines, line_of
from ptw.workspace.problem import Problem, dotted, shown

FILE = "workspace.toml"
DEEPEST = 20  # levels of tables and lists; what a manifest means by them ends far above
TOO_DEEP = f"{FILE}: tables or lists are nested more than {DEEPEST} deep; ptw has no use for that"


@dataclass(frozen=True)
class Document:
    root: Path
    values: Mapping[str, Any]
    lines: dict[tuple[str | int, ...], int]

    def problem(self, path: Sequence[str | int], value: object, message: str, hint: str = "") -> Problem:
        """A problem at this key; `value` is None for a key that is missing."""
        line = line_of(self.lines, tuple(path))
        return Problem(FILE, line, dotted(path), "" if value is None else shown(value), message, hint)


def read_document(root: Path) -> Document:
    """The parsed file; PtwError when there is none, it is no file, no UTF-8 or no TOML."""
    text = file_text(root / FILE)
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise PtwError(TOO_DEEP) from error
    except ValueError as error:  # TOMLDecodeError, and int() on thousands of digits
        raise PtwError(broken(text, str(error))) from error
    refuse_extremes(values)
    return Document(root, values, key_lines(text.replace("\r\n", "\n")))


def file_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise PtwError(f"{path}: there is no such file; `ptw init NAME` makes a workspace") from error
    except IsADirectoryError as error:
        raise PtwError(f"{path}: this is a folder; it must be a file, the workspace's manifest") from error
    except OSError as error:
        raise PtwError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{data[error.start]:02x}"
        raise PtwError(f"{FILE}:{line}: {byte} is not UTF-8; save the file as UTF-8") from error


def refuse_extremes(values: dict[str, Any]) -> None:
    """What TOML's grammar lets through and no manifest means: deep nesting, integers beyond 64 bits."""
    level: list[Any] = [values]
    for _ in range(DEEPEST):
        parts = [list(part.values() if isinstance(part, dict) else part) for part in level]
        level = [value for part in parts for value in part]
        if any(isinstance(value, int) and abs(value) >= 2**63 for value in level):
            raise PtwError(f"{FILE}: it has an integer of more than 64 bits, which TOML does not allow")
        level = [value for value in level if isinstance(value, dict | list)]
        if not level:
            return
    raise PtwError(TOO_DEEP)


def broken(text: str, reason: str) -> str:
    """tomllib's message with its line first, and that line quoted."""
    if text.startswith("\ufeff"):
        return f"{FILE}:1: the file begins with a byte order mark; save it as UTF-8 without one"
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", reason)
    if place is None:
        return f"{FILE}: not TOML: {reason}"
    line = int(place.group(1) or text.count("\n") + 1)
    quoted = text.split("\n")[line - 1].strip()[:80]
    column = f" (column {place.group(2)})" if place.group(2) else " (the text ends too early)"
    return f"{FILE}:{line}: not TOML: {reason[: place.start()]}{column}: {quoted}"
