"""Which cases is a port held to, and what does the reference say to them? Drawn, asked and kept by content.

Both run in processes of their own: transformers is never imported here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ptw.errors import PtwError
from ptw.verify.sandbox import PACKAGE

MAKER_SECONDS, REFERENCE_SECONDS = 300, 600
LAST_LINES = 12
# what these files say decides the cases and the reference's answers: another text, another cache
MAKER = ("configurations", "documents", "exact", "informative", "make_cases", "reference")
SOURCES = (*MAKER, "nudge", "trace_reference")


@dataclass(frozen=True)
class Family:
    """A model_type's cases: a folder each in `given`, and in `drawn` a file each that says what it is for."""

    model_type: str
    folder: Path

    @property
    def given(self) -> Path:
        return self.folder / "given"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self.given.iterdir())) if self.given.is_dir() else ()

    @property
    def error(self) -> str:
        file = self.folder / "error"
        return file.read_text() if file.exists() else ""


def draw(model_types: Sequence[str], level: str, seed: int, folder: Path, cache: Path) -> list[Family]:
    """The cases of each family, below `folder`; those for practice, always the same, are kept in `cache`."""
    families = [Family(model_type, folder / model_type) for model_type in model_types]
    missing = []
    for family in families:
        kept = cache / "cases" / _key(family.model_type, level, str(seed))
        if kept.is_dir() and level == "practice":
            shutil.copytree(kept, family.folder)
        else:
            missing.append((family, kept))
    if missing:
        requests = [
            {"model_type": family.model_type, "level": level, "seed": seed, "folder": str(family.folder)}
            for family, _ in missing
        ]
        _run_maker(requests)
    for family, kept in missing:
        if level == "practice" and not family.error:
            publish(family.folder, kept)
    return families


def are_kept(model_types: Sequence[str], seed: int, cache: Path) -> bool:
    """Whether all these practice cases have been drawn before, as a sign that they have been answered too."""
    return all((cache / "cases" / _key(name, "practice", str(seed))).is_dir() for name in model_types)


class Reference:
    """The reference's process. It imports while ports run, and is asked when they have ended."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [*_python("ptw.verify.trace_reference")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(),
            cwd=PACKAGE.parent,
        )

    def ask(self, requests: Sequence[dict[str, str]]) -> None:
        """Compute every request and end."""
        try:
            _, stderr = self.process.communicate(json.dumps(requests).encode(), timeout=REFERENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.close()
            raise PtwError(f"the reference took longer than {REFERENCE_SECONDS} seconds") from None
        if self.process.returncode:
            raise PtwError(f"the reference's process failed:\n{_last(stderr)}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def cache_folder(root: Path | None) -> Path:
    """Of the workspace, else of the user."""
    if root is not None:
        return root / ".ptw" / "verify"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ptw" / "verify"


def digest(*folders: Path) -> str:
    """Of names and contents of the files, of the versions that compute with them, and of how they do."""
    hashed = hashlib.sha256(_key().encode())
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            hashed.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
            hashed.update(file.read_bytes())
    return hashed.hexdigest()


def publish(source: Path, target: Path) -> None:
    """Copy a file or folder into the cache, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        with contextlib.suppress(FileExistsError, OSError):  # another process was faster, or the disk is full
            if source.is_dir():
                shutil.copytree(source, aside / "new")
            else:
                shutil.copyfile(source, aside / "new")
            (aside / "new").replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def versions() -> Iterator[tuple[str, str]]:
    for name in ("transformers", "torch"):
        yield name, metadata.version(name)


def _key(*parts: str) -> str:
    hashed = hashlib.sha256()
    for name in SOURCES:
        hashed.update((PACKAGE / "verify" / f"{name}.py").read_bytes())
    hashed.update(json.dumps([parts, list(versions()), list(sys.version_info[:2])]).encode())
    return hashed.hexdigest()


def _run_maker(requests: list[dict[str, object]]) -> None:
    command = [*_python("ptw.verify.make_cases"), json.dumps(requests)]
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            cwd=PACKAGE.parent,
            capture_output=True,
            timeout=MAKER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PtwError(f"drawing the cases took longer than {MAKER_SECONDS} seconds") from None
    if done.returncode:
        raise PtwError(f"drawing the cases failed:\n{_last(done.stderr)}")


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _environment() -> dict[str, str]:
    """One thread: the two processes that may run at a time have a core each; and never the network."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def _last(stderr: bytes) -> str:
    return "\n".join(stderr.decode(errors="replace").splitlines()[-LAST_LINES:])
