"""Where is kept what was made of a workspace's data for a tokenizer?"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ptw.errors import PtwError


class Kept(Protocol):
    def save(self, folder: Path) -> None: ...


def cached(root: Path, digest: str, build: Callable[[], Kept]) -> Path:
    """The folder with this digest; built and written aside first, if it isn't there yet."""
    kept = root / ".ptw" / "tokenizers"
    folder = kept / digest
    if folder.is_dir():
        return folder
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
