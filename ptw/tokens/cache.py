"""Where is kept what was made of a workspace's data for a tokenizer?"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from ptw.errors import PtwError


class Kept(Protocol):
    def save(self, folder: Path) -> None: ...


class NotMade(PtwError):
    """What is asked for is still to be made of a workspace's data."""


_may_make = ContextVar("may_make", default=True)


@contextmanager
def nothing_made() -> Iterator[None]:
    """Within it `cached` finds what is there, and is NotMade where something would be made of data."""
    before = _may_make.set(False)
    try:
        yield
    finally:
        _may_make.reset(before)


def cached(root: Path, digest: str, build: Callable[[], Kept]) -> Path:
    """The folder with this digest; built and written aside first, if it isn't there yet."""
    kept = root / ".ptw" / "tokenizers"
    folder = kept / digest
    if folder.is_dir():
        return folder
    if not _may_make.get():
        raise NotMade(f"{folder}: a tokenizer is still to be made of its data")
    built = build()
    try:
        kept.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{digest[:8]}-", dir=kept))
        try:
            built.save(aside)
            # mkdtemp's folder is for its owner alone
            aside.chmod(0o755)
            os.rename(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():  # else another process was first, with the same
            raise PtwError(
                f"{kept}: a tokenizer can't be written there ({error}); free space or permit it"
            ) from error
    return folder
