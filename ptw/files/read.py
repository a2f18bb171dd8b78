"""How are the rows of one file read, from its beginning or from a place inside it?"""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
import zstandard

from ptw.errors import PtwError
from ptw.files.find import File, open_file

_CHUNK_BYTES = 1 << 17
_ZSTD_BYTES = 1 << 11
_LONGEST_LINE_BYTES = 256 << 20
_PARQUET_ROWS = 256


@dataclass(frozen=True)
class Row:
    """One row. `number` counts lines (parquet: rows) from 1; the next begins at byte `end` of the content.

    `fault`: the line holds no row, and why; `value` is empty then.
    """

    place: str
    value: dict[str, Any]
    number: int = 0
    end: int = 0
    size: int = 0
    fault: PtwError | None = None


def read(file: File, number: int = 0, byte: int = 0) -> Iterator[Row]:
    """The rows after line (parquet: row) `number`, which ends at `byte`: a row's own `number` and `end`.

    PtwError names file and line: not JSON, not UTF-8, not an object, cut off, unreadable.
    """
    for row in read_on(file, number, byte):
        if row.fault is not None:
            raise row.fault
        yield row


def read_on(file: File, number: int = 0, byte: int = 0, last: int | None = None) -> Iterator[Row]:
    """As `read`, but a line that holds no row is given with its `fault`, and the next ones after it.

    The end is line (parquet: row) `last`, which the file must have; without one, that of the file.
    """
    if number == last:
        return
    with open_file(file) as handle:
        if file.place.endswith(".parquet"):
            yield from _parquet_rows(file, handle, number, last)
        else:
            yield from _json_rows(file, handle, number, byte, last)


def _json_rows(file: File, handle: BinaryIO, number: int, byte: int, last: int | None) -> Iterator[Row]:
    for line in _lines(file, _content(file, handle, byte)):
        number, byte = number + 1, byte + len(line) + 1
        if line.strip():
            yield _row(f"{file.place}:{number}", line, number, byte)
        if number == last:
            return


def _row(place: str, line: bytes, number: int, end: int) -> Row:
    try:
        return Row(place, _parse(place, line, first=number == 1), number, end, len(line))
    except PtwError as fault:
        return Row(place, {}, number, end, len(line), fault)


def _parse(place: str, line: bytes, first: bool) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
        value = json.loads(text, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise PtwError(
            f"{place}: not UTF-8 at byte {error.start} of the line; save the file as UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PtwError(f"{place}: not JSON ({error}); every line must hold one JSON object") from error
    if not isinstance(value, dict):
        raise PtwError(f"{place}: a row must be a JSON object, this is {_json_kind(value)}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json itself would keep the last of two values and say nothing."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
        raise ValueError(f"the key {twice!r} stands twice in an object")
    return value


def _lines(file: File, chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = bytearray()
    for chunk in chunks:
        if b"\n" not in chunk:
            rest += chunk
        else:
            first, *lines, last = chunk.split(b"\n")
            yield bytes(rest + first)
            yield from lines
            rest = bytearray(last)
        if len(rest) > _LONGEST_LINE_BYTES:
            raise PtwError(
                f"{file.place}: a line is longer than {_LONGEST_LINE_BYTES >> 20} MiB; is this .jsonl?"
            )
    if rest:
        yield bytes(rest)


def _content(file: File, handle: BinaryIO, byte: int) -> Iterator[bytes]:
    """The plain content from `byte` on; what is compressed can only be skipped by decompressing it."""
    if file.place.endswith(".jsonl"):
        handle.seek(byte)
        yield from chunks(file, handle)
        return
    for chunk in _told(file, _gunzip(handle) if file.place.endswith(".gz") else _unzstd(handle)):
        if byte >= len(chunk):
            byte -= len(chunk)
        else:
            yield chunk[byte:]
            byte = 0


def chunks(file: File, handle: BinaryIO) -> Iterator[bytes]:
    """The bytes from where the handle stands; PtwError names the file that can't be read."""
    return _told(file, iter(lambda: handle.read(_CHUNK_BYTES), b""))


def _gunzip(handle: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=handle) as content:
        yield from iter(lambda: content.read(_CHUNK_BYTES), b"")


def _unzstd(handle: BinaryIO) -> Iterator[bytes]:
    """As zstandard's stream reader, which takes a frame that was cut off for a whole one."""
    frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    # little at a time: what a piece becomes may be a thousand times its size
    while chunk := handle.read(_ZSTD_BYTES):
        while chunk:
            begun = True
            yield frame.decompress(chunk)
            chunk = frame.unused_data
            if frame.eof:
                frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    if begun:
        raise EOFError("the last frame is incomplete")


def _told(file: File, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks; a fault of the bytes or of the store becomes a message that names the file."""
    try:
        yield from chunks
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise PtwError(
            f"{file.place}: cut off or damaged ({error}); write or fetch the file again"
        ) from error
    except OSError as error:
        raise PtwError(f"{file.place}: can't be read ({error})") from error


@contextmanager
def opened_parquet(file: File, handle: BinaryIO) -> Iterator[pyarrow.parquet.ParquetFile]:
    """PtwError: it is none, or damaged, also where that shows later."""
    try:
        yield pyarrow.parquet.ParquetFile(handle)
    # an OSError is how pyarrow says most damage
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise PtwError(
            f"{file.place}: cut off or no parquet ({error}); write or fetch the file again"
        ) from error


def _parquet_rows(file: File, handle: BinaryIO, number: int, last: int | None) -> Iterator[Row]:
    with opened_parquet(file, handle) as parquet:
        done = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if done + rows > number:
                yield from _group_rows(file, parquet, group, done, number)
            done += rows
            if last is not None and done >= last:
                return


def _group_rows(file: File, parquet: Any, group: int, done: int, number: int) -> Iterator[Row]:
    for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS, row_groups=[group], use_threads=False):
        if done + len(batch) > number:
            size = batch.nbytes // len(batch)
            skipped = max(number - done, 0)
            for at, value in enumerate(batch.slice(skipped).to_pylist(), start=done + skipped + 1):
                yield Row(f"{file.place}:row {at}", value, at, 0, size)
        done += len(batch)


def _json_kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a list" if isinstance(value, list) else "a string" if isinstance(value, str) else "a number"
