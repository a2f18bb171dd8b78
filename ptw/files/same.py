"""Which files do two sources share, whatever they are called?"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from ptw.files.find import File, content_digest, find, size_bytes

LOCAL = ("file://", "local://")


def shared(root: Path, one: tuple[str, ...], other: tuple[str, ...]) -> list[str]:
    """The places of those files of `one` that `other` reads too: by any glob, path or link, or as a copy.

    Of a store a file is known by its URL alone, so that a copy there is another file. PtwError as of `find`.
    """
    own, others = find(root, one), find(root, other)
    names = {_name(file) for file in others}
    copies = _copies([file for file in own if _name(file) not in names], others)
    return [file.place for file in own if _name(file) in names or file.place in copies]


def _copies(own: Sequence[File], others: Sequence[File]) -> set[str]:
    """Places of files here that hold what one of the others holds; read only where their sizes are equal."""
    sizes = {size_bytes(file) for file in others if _path(file)} - {0}
    alike = [file for file in own if _path(file) and size_bytes(file) in sizes]
    wanted = {size_bytes(file) for file in alike}
    digests = {_content(file) for file in others if _path(file) and size_bytes(file) in wanted}
    return {file.place for file in alike if _content(file) in digests}


def _path(file: File) -> str | None:
    """Of a file on this machine."""
    if not file.remote:
        return file.path
    return next((file.path.removeprefix(mark) for mark in LOCAL if file.path.startswith(mark)), None)


def _name(file: File) -> str:
    path = _path(file)
    if path is None:
        return file.path
    found = os.stat(path)  # what a link leads to
    return f"{found.st_dev}:{found.st_ino}"


def _content(file: File) -> str:
    return content_digest((dataclasses.replace(file, place=""),))
