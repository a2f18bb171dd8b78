"""On which line does each key of a TOML text stand?

`tomllib` gives values without places. This walks a text that `tomllib` has already accepted, so it never
judges: it only has to know where strings, arrays and inline tables end.
"""

import contextlib
import re

Path = tuple[str | int, ...]

BARE = re.compile(r"[A-Za-z0-9_-]+")
BLANK = re.compile(r"[ \t]*")
FILLER = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
SCALAR = re.compile(r"[^,\]}#\n]*")
STRINGS = (
    re.compile(r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}', re.DOTALL),
    re.compile(r"'''(?:[^']|'(?!''))*'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)
ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([btnfr"\\]))')
ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


def key_lines(text: str) -> dict[Path, int]:
    """Every key's path (array places are integers) with the line, from 1, where it stands first."""
    walk = Walk(text)
    # at a form that this walk does not know it ends, and the keys found so far still serve
    with contextlib.suppress(IndexError, KeyError, RecursionError, StopIteration, ValueError):
        walk.document()
    return walk.lines


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of the key, or else of the nearest table that holds it."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


class Walk:
    """A cursor over the text, with what it has found so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.lines: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # tables so far in each array of tables
        self.counted, self.line = 0, 1

    def document(self) -> None:
        table: Path = ()
        self.skip(FILLER)
        while self.place < len(self.text):
            if self.text[self.place] == "[":
                table = self.header()
            else:
                self.assignment(table)
            self.skip(FILLER)

    def header(self) -> Path:
        repeated = self.text.startswith("[[", self.place)
        line = self.here()
        self.place += 2 if repeated else 1
        keys = self.keys()
        self.place += 2 if repeated else 1
        path: Path = ()
        for key in keys[:-1]:
            path = self.entered((*path, key), line)
        path = (*path, keys[-1])
        if not repeated:
            self.lines[path] = line  # until now it may have stood as a part of a longer name
            return path
        self.counts[path] = self.counts.get(path, 0) + 1
        return self.entered(path, line)

    def entered(self, path: Path, line: int) -> Path:
        """The table that this part of a header means: in an array of tables, the newest."""
        self.lines.setdefault(path, line)
        if path in self.counts:
            path = (*path, self.counts[path] - 1)
            self.lines.setdefault(path, line)
        return path

    def assignment(self, table: Path) -> None:
        line = self.here()
        path = table
        for key in self.keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.place += 1  # the equals sign
        self.skip(BLANK)
        self.value(path)

    def value(self, path: Path) -> None:
        start = self.text[self.place]
        if start == "[":
            self.array(path)
        elif start == "{":
            self.inline_table(path)
        elif start in "\"'":
            self.string()
        else:
            self.skip(SCALAR)

    def array(self, path: Path) -> None:
        self.place += 1
        number = 0
        while self.more("]"):
            self.lines.setdefault((*path, number), self.here())
            self.value((*path, number))
            number += 1

    def inline_table(self, path: Path) -> None:
        self.place += 1
        while self.more("}"):
            self.assignment(path)

    def more(self, end: str) -> bool:
        """Whether another element follows; the comma before it, or the end itself, is passed."""
        self.skip(FILLER)
        if self.text[self.place] == ",":
            self.place += 1
            self.skip(FILLER)
        if self.text[self.place] == end:
            self.place += 1
            return False
        return True

    def keys(self) -> list[str]:
        found = []
        while True:
            self.skip(BLANK)
            found.append(self.string() if self.text[self.place] in "\"'" else self.skip(BARE))
            self.skip(BLANK)
            if self.text[self.place] != ".":
                return found
            self.place += 1

    def string(self) -> str:
        token = next(match.group() for form in STRINGS if (match := form.match(self.text, self.place)))
        self.place += len(token)
        return unquoted(token)

    def skip(self, form: re.Pattern[str]) -> str:
        match = form.match(self.text, self.place)
        if match is None:
            raise ValueError(f"no {form.pattern} at {self.place}")
        self.place = match.end()
        return match.group()

    def here(self) -> int:
        self.line += self.text.count("\n", self.counted, self.place)
        self.counted = self.place
        return self.line


def unquoted(token: str) -> str:
    """The text of a one-line string, which is what a key can be."""
    if token.startswith("'"):
        return token[1:-1]
    return ESCAPE.sub(unescaped, token[1:-1])


def unescaped(match: re.Match[str]) -> str:
    short, long, letter = match.groups()
    return ESCAPED[letter] if letter else chr(int(short or long, 16))
