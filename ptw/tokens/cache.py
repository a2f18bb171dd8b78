"""Where is a tokenizer kept that was built from a workspace's data?"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptw.errors import PtwError


def cached(root: Path, digest: str, build: Callable[[], Any]) -> Path:
    """The folder of the tokenizer with this digest; built and written aside first, if it isn't there yet."""
    kept = root / ".ptw" / "tokenizers"
    folder = kept / digest
    if folder.is_dir():
        return folder
    hf = build()
    try:
        kept.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{digest[:8]}-", dir=kept))
        try:
            hf.save_pretrained(str(aside))
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
