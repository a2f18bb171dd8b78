"""How do the lines of metrics.jsonl and its like survive a crash? Written whole, and cut on resume."""

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ptw.errors import PtwError

Line = dict[str, Any]


def append(path: Path, line: Mapping[str, Any]) -> None:
    """One line, in one write: a reader sees all of it or nothing. PtwError when it cannot be written."""
    data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        written = os.write(descriptor, data)
        if written < len(data):  # a disk that fills takes a part
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        hint = "make room, then go on with --resume"
        raise PtwError(f"{path}: cannot be written: {error.strerror}; {hint}") from error
    finally:
        os.close(descriptor)


def read(path: Path, start: int = 0) -> tuple[list[Line], int]:
    """The whole lines from byte `start` on, and the byte after them; a half one at the end waits."""
    if not path.exists():
        return [], start
    with path.open("rb") as file:
        if start > os.fstat(file.fileno()).st_size:
            start = 0  # cut since
        file.seek(start)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return list(_parsed(data[:end])), start + end


def keep(path: Path, wanted: Callable[[Line], bool]) -> None:
    """Drop the lines that are not wanted, and half ones; written aside, then renamed."""
    if not path.exists():
        return
    lines, _ = read(path)
    aside = path.with_name(f".{path.name}.aside")
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines if wanted(line))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _parsed(data: bytes) -> Iterator[Line]:
    for text in data.splitlines():
        try:
            yield json.loads(text)
        except ValueError:
            continue  # torn by a crash of the machine; the step is done again
