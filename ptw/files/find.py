"""Which files does a source name, and how is one opened?"""

import glob
import hashlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import fsspec

from ptw.errors import PtwError
from ptw.files.remote import RemoteBytes, identity, patiently, reason

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class File:
    """One file of a source: `place` is how messages call it, `path` what its filesystem opens."""

    place: str
    path: str
    remote: bool


def find(root: Path, source: tuple[str, ...]) -> tuple[File, ...]:
    """The files of globs relative to `root` and of fsspec URLs, each once; a glob's are sorted.

    PtwError: a pattern that no file matches, an unknown kind of file, a store that doesn't answer.
    """
    files: dict[str, File] = {}
    for pattern in source:
        found = _find_remote(pattern) if "://" in pattern else _find_local(root, pattern)
        if not found:
            where = "there" if "://" in pattern else f"under {root}"
            hint = "train the recipe of that run first" if pattern.startswith("runs/") else "create the file"
            raise PtwError(f"{pattern}: no file {where} matches; check the path, or {hint}")
        files |= {file.place: file for file in found if file.place not in files}
    for file in files.values():
        if not file.place.endswith(SUFFIXES):
            raise PtwError(
                f"{file.place}: rows are read from {', '.join(SUFFIXES)}; convert the file to one of these"
            )
    return tuple(files.values())


def open_file(file: File) -> BufferedReader:
    """The file's raw bytes, seekable; a remote file is fetched piece by piece."""
    if file.remote:
        return BufferedReader(RemoteBytes(file.place, file.path), _CHUNK_BYTES)
    try:
        return open(file.path, "rb")
    except OSError as error:
        raise PtwError(f"{file.place}: can't be opened ({reason(error)})") from error


def size_bytes(file: File) -> int:
    """The file's size, without reading it."""
    try:
        if not file.remote:
            return Path(file.path).stat().st_size
        return int(_info(file)["size"] or 0)
    except (OSError, KeyError, TypeError) as error:
        raise PtwError(f"{file.place}: its size can't be read ({reason(error)})") from error


def content_digest(files: tuple[File, ...]) -> str:
    """One digest of what the files hold: of their bytes, or of what a remote store says identifies them."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.place}\0{_identity(file)}\n".encode())
    return total.hexdigest()


def _identity(file: File) -> str:
    if file.remote:
        return identity(_info(file))
    with open_file(file) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _info(file: File) -> dict[str, Any]:
    def ask() -> dict[str, Any]:
        filesystem, path = fsspec.core.url_to_fs(file.path)
        return dict(filesystem.info(path))

    return patiently(file.place, ask)


def _find_local(root: Path, pattern: str) -> list[File]:
    # a literal name may hold a glob's characters
    names = [pattern] if (root / pattern).is_file() else glob.glob(pattern, root_dir=root, recursive=True)
    places = sorted(Path(name).as_posix() for name in names)
    return [File(place, str(root / place), False) for place in places if (root / place).is_file()]


def _find_remote(pattern: str) -> list[File]:
    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        # a URL's query is no glob
        is_glob = any(mark in path for mark in "*[") and not pattern.startswith("http")
        paths = sorted(filesystem.glob(path)) if is_glob else [path] if filesystem.exists(path) else []
        urls = [str(filesystem.unstrip_protocol(path)) for path in paths]
    except ImportError as error:
        raise PtwError(f"source {pattern!r}: this kind of URL needs a driver ({error})") from error
    except Exception as error:  # each store's driver has exceptions of its own
        hint = "check address, credentials and, in the environment, the endpoint (AWS_ENDPOINT_URL for S3)"
        raise PtwError(f"source {pattern!r}: the store doesn't answer ({reason(error)}); {hint}") from error
    return [File(url, url, True) for url in urls]
