"""Which rows does a dataset's source hold, in which order, and from which place on?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ptw.errors import PtwError
from ptw.files.find import File, content_digest, find
from ptw.files.read import Row, read_on


class Position(NamedTuple):
    """A place between two rows: in file number `file` of an order, after line `number`, ending at `byte`."""

    file: int = 0
    number: int = 0
    byte: int = 0


def rows(root: Path, source: tuple[str, ...], start: Position | None = None) -> Iterator[Row]:
    """Every row, file by file; from `start` on without parsing what lies before.

    PtwError: no rows at all, or a line that holds none.
    """
    for _, row in walk(find(root, source), start or Position()):
        if row.fault is not None:
            raise row.fault
        yield row


def walk(files: Sequence[File], start: Position) -> Iterator[tuple[Position, Row]]:
    """Every row from `start` on, each with the position after it; a line that holds none with its fault."""
    empty = start == Position()
    for at in range(start.file, len(files)):
        number, byte = (start.number, start.byte) if at == start.file else (0, 0)
        for row in read_on(files[at], number, byte):
            empty = False
            yield Position(at, row.number, row.end), row
    if empty:
        names = ", ".join(file.place for file in files[:3])
        raise PtwError(
            f"{names}{', ...' if len(files) > 3 else ''}: no rows; a dataset must hold at least one"
        )


def digest(root: Path, source: tuple[str, ...]) -> str:
    """A digest of the content (remote: of the store's ETag, size and time): equal while no row changes."""
    return content_digest(find(root, source))
