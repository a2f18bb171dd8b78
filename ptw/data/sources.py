"""Which rows does a dataset's source hold, in which order, and from which place on?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ptw.errors import PtwError
from ptw.files.find import content_digest, find
from ptw.files.read import Row, read_on
from ptw.files.spans import Span


class Position(NamedTuple):
    """A place between two rows: in span number `span` of an order, after line `number`, ending at `byte`.

    Number 0 is the span's beginning.
    """

    span: int = 0
    number: int = 0
    byte: int = 0


def rows(root: Path, source: tuple[str, ...], start: Position | None = None) -> Iterator[Row]:
    """Every row, file by file; from `start` on without parsing what lies before.

    PtwError: no rows at all, or a line that holds none.
    """
    for _, row in walk([Span(file) for file in find(root, source)], start or Position()):
        if row.fault is not None:
            raise row.fault
        yield row


def walk(spans: Sequence[Span], start: Position) -> Iterator[tuple[Position, Row]]:
    """Every row from `start` on, each with the position after it; a line that holds none with its fault."""
    empty = start == Position()
    for at in range(start.span, len(spans)):
        file, number, byte, last = spans[at]
        if at == start.span and start.number:
            number, byte = start.number, start.byte
        for row in read_on(file, number, byte, last):
            empty = False
            yield Position(at, row.number, row.end), row
    if empty:
        names = list(dict.fromkeys(span.file.place for span in spans))
        more = ", ..." if len(names) > 3 else ""
        raise PtwError(f"{', '.join(names[:3])}{more}: no rows; a dataset must hold at least one")


def digest(root: Path, source: tuple[str, ...]) -> str:
    """A digest of the content (remote: of the store's ETag, size and time): equal while no row changes."""
    return content_digest(find(root, source))
