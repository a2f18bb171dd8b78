"""How are a remote file's bytes read through a store that fails now and then, so that none is lost?"""

import io
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import fsspec

from ptw.errors import PtwError

T = TypeVar("T")

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)  # after each try but the last; drivers have their own within
BLOCK_BYTES = 8 << 20  # fetched at once
_MARKS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "updated")
_FOR_GOOD = (
    FileNotFoundError | PermissionError | IsADirectoryError | ImportError | NotImplementedError | PtwError
)


class RemoteBytes(io.RawIOBase):
    """A remote file, fetched piece by piece. After a fault it is opened again at the byte where it stood.

    PtwError: the store fails again and again, or the file was changed while it was read.
    """

    def __init__(self, place: str, url: str) -> None:
        super().__init__()
        self._place, self._url = place, url
        self._position = 0
        self._identity: str | None = None
        self._handle: Any = patiently(place, self._opened)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._handle.size or 0}[whence]
        self._position = begin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = patiently(self._place, lambda: self._piece(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()

    def _piece(self, count: int) -> bytes:
        try:
            if self._handle is None:
                self._handle = self._opened()
            _go_to(self._handle, self._position)
            data: bytes = self._handle.read(count)
            if not data and self._position < (self._handle.size or 0):
                raise OSError(f"nothing came after byte {self._position} of {self._handle.size}")
            return data
        except Exception:
            self._drop()
            raise

    def _opened(self) -> Any:
        filesystem, path = fsspec.core.url_to_fs(self._url)
        if self._identity is not None:
            filesystem.invalidate_cache()
        found = identity(filesystem.info(path))
        if self._identity not in (None, found):
            raise PtwError(f"{self._place}: it was changed while it was read; start again")
        self._identity = found
        return filesystem.open(path, "rb", cache_type="readahead", block_size=BLOCK_BYTES)

    def _drop(self) -> None:
        handle, self._handle = self._handle, None
        with suppress(Exception):  # what failed may fail to close
            if handle is not None:
                handle.close()


def identity(info: dict[str, Any]) -> str:
    """What a store says of a file that is another once its content is."""
    marks = (info.get(key) for key in _MARKS)
    return "\0".join([str(info.get("size")), *(str(mark) for mark in marks if mark is not None)])


def patiently(place: str, call: Callable[[], T]) -> T:
    """What the call gives. A fault that may pass is waited for; PtwError once there is no more patience."""
    pauses = iter(PAUSES_SECONDS)
    tries = 0
    while True:
        tries += 1
        try:
            return call()
        except Exception as error:  # each store's driver has exceptions of its own
            if isinstance(error, PtwError):
                raise
            pause = next(pauses, None) if may_pass(error) else None
            if pause is None:
                times = "once" if tries == 1 else f"{tries} times"
                raise PtwError(f"{place}: can't be read, tried {times}, at last: {reason(error)}") from error
            time.sleep(pause)


def may_pass(error: Exception) -> bool:
    """Whether it is worth another try: a timeout, a reset, a 5xx; not what is missing or forbidden."""
    # as aiohttp names it, and as others do
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429)
    return not refused and not isinstance(error, _FOR_GOOD)


def reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _go_to(handle: Any, position: int) -> None:
    """Where a server sends no ranges, what lies before is read once more."""
    if handle.tell() == position:
        return
    if handle.seekable():
        handle.seek(position)
        return
    while (missing := position - handle.tell()) > 0:
        if not handle.read(min(missing, 1 << 20)):
            raise OSError(f"it ends before byte {position}")
