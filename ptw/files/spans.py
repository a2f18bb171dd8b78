"""Where can a file be entered, so that its rows come in another order than they were written in?"""

from typing import NamedTuple

import numpy as np

from ptw.files.find import File, open_file
from ptw.files.read import chunks, opened_parquet

SPAN_LINES = 64
MOST_SPANS = 1 << 18  # of a file; where it has more lines, the spans are longer
_NEWLINE = ord("\n")

Place = tuple[int, int]  # after so many lines (parquet: rows), which end at that byte


class Span(NamedTuple):
    """Rows that follow each other: those after line (parquet: row) `number`, which ends at `byte`.

    They end with line `last`; without one, with the file.
    """

    file: File
    number: int = 0
    byte: int = 0
    last: int | None = None


def spans(file: File) -> list[Span]:
    """The spans of a file, in its order: some lines of a local .jsonl, a row group of a local parquet.

    Any other file is one span: what is compressed can't be entered, and of what is remote it would have to be
    fetched whole to know where its lines are. PtwError: it can't be read.
    """
    places: list[Place] = [(0, 0)]
    if not file.remote and file.place.endswith(".jsonl"):
        places = _lines(file)
    elif not file.remote and file.place.endswith(".parquet"):
        places = _row_groups(file)
    lasts = [*(number for number, _ in places[1:]), None]
    return [Span(file, number, byte, last) for (number, byte), last in zip(places, lasts, strict=True)]


def _lines(file: File) -> list[Place]:
    """One pass over the bytes."""
    places, each = [(0, 0)], SPAN_LINES
    number = byte = 0
    with open_file(file) as handle:
        for chunk in chunks(file, handle):
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _NEWLINE)
            wanted = range(-number % each or each, len(ends) + 1, each)
            places += [(number + at, byte + int(ends[at - 1]) + 1) for at in wanted]
            number, byte = number + len(ends), byte + len(chunk)
            while len(places) > MOST_SPANS:
                places, each = places[::2], each * 2
    if len(places) > 1 and places[-1][1] == byte:  # nothing lies behind
        places.pop()
    return places


def _row_groups(file: File) -> list[Place]:
    with open_file(file) as handle, opened_parquet(file, handle) as parquet:
        rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return [(int(number), 0) for number in np.cumsum([0, *rows[:-1]])]
