"""How do files come to a place that several machines see, a folder or an object store, and back?"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from ptw.errors import PtwError
from ptw.files.remote import identity, may_pass, reason

WAITS_SECONDS = (1.0, 2.0, 4.0)  # between tries; then it is said

Found = TypeVar("Found")


class Store:
    """Files by their names below a folder or an fsspec URL. PtwError when the place fails for good.

    A name appears whole: an object store shows an object once it is complete, and in a folder a file is
    written aside and renamed.
    """

    def __init__(self, place: str, waits_seconds: tuple[float, ...] = WAITS_SECONDS) -> None:
        self.place = place.rstrip("/")
        self._waits = waits_seconds
        self._files, self._root = self._tried("opened", lambda: fsspec.core.url_to_fs(self.place))
        self._is_folder = "://" not in place

    def put(self, file: Path, name: str) -> None:
        """Copy a local file there."""
        path = f"{self._root}/{name}"
        aside = f"{path}.part" if self._is_folder else path
        if self._is_folder:
            self._tried("written", lambda: self._files.makedirs(path.rpartition("/")[0], exist_ok=True))
        self._tried("written", lambda: self._files.put_file(str(file), aside))
        if self._is_folder:
            self._tried("written", lambda: Path(aside).replace(path))

    def get(self, name: str, file: Path) -> bool:
        """Copy it here, aside first; False if it is not there."""
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.part")
        try:
            self._tried("read", lambda: self._files.get_file(f"{self._root}/{name}", str(aside)))
            aside.replace(file)
        except FileNotFoundError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    def names(self, folder: str = "") -> dict[str, str]:
        """Name -> what tells one content from another, of all files below `folder`."""

        def listed() -> dict[str, Any]:
            self._files.invalidate_cache()
            found: dict[str, Any] = self._files.find(f"{self._root}/{folder}".rstrip("/"), detail=True)
            return found

        try:
            found = self._tried("listed", listed)
        except FileNotFoundError:
            return {}
        below = len(self._root) + 1
        return {path[below:]: identity(info) for path, info in found.items() if not path.endswith(".part")}

    def remove(self, name: str) -> None:
        """The file, if it is there."""
        try:
            self._tried("removed", lambda: self._files.rm_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            return

    def _tried(self, what: str, call: Callable[[], Found]) -> Found:
        """Again after a fault that may pass, a few times; FileNotFoundError as it is."""
        for wait in (*self._waits, None):
            try:
                return call()
            except FileNotFoundError:
                raise
            except Exception as error:  # each store's driver has exceptions of its own
                if wait is None or not may_pass(error):
                    raise PtwError(
                        f"storage {self.place}: can't be {what} ({reason(error)}); check "
                        "address, credentials, room and, for S3 of your own, AWS_ENDPOINT_URL"
                    ) from error
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")
