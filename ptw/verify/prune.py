"""How large may what the gate keeps become? What has not been used for longest goes first."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

MOST_BYTES = 1 << 30
KINDS = ("cases", "answers", "verdicts", "mutants")


def used(entry: Path) -> None:
    """Says that an entry was of use now."""
    with contextlib.suppress(OSError):
        os.utime(entry)


def prune(cache: Path, most_bytes: int = MOST_BYTES) -> None:
    """Delete the entries of `cache`, files or folders, that were used longest ago, until it is small."""
    entries = sorted(_entries(cache), reverse=True)
    total = 0
    for _, size, entry in entries:
        total += size
        if total > most_bytes:
            _delete(entry)


def _entries(cache: Path) -> Iterator[tuple[float, int, Path]]:
    """When each was used last, and its bytes."""
    for folder in (cache / kind for kind in KINDS):
        for entry in folder.iterdir() if folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # another process deletes too
                files = [path for path in (entry, *entry.rglob("*")) if path.is_file()]
                yield entry.stat().st_mtime, sum(file.stat().st_size for file in files), entry


def _delete(entry: Path) -> None:
    if entry.is_dir():
        # first out of the way: half a folder would be taken for a whole one
        aside = entry.with_name(f".old-{entry.name}")
        with contextlib.suppress(OSError):
            entry.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
