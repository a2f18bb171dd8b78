"""Where do the files of a run on a cluster lie, there and in the storage that both sides see?"""

from collections.abc import Iterable
from pathlib import Path

from ptw.files.store import Store
from ptw.runs.record import CHECKPOINTS, EVENTS, FILE, METRICS, MODEL
from ptw.train.checkpoint import SEAL
from ptw.train.labels.bill import ASKED
from ptw.train.labels.publish import LABELS, REFUSED
from ptw.train.labels.store import PARTS

HOME = "~/.ptw/jobs"  # of the cluster's head, where neither `folder` nor a folder as storage is named
SAID = (LABELS, REFUSED, PARTS, ASKED)  # of a run that labels
LINES = (METRICS, EVENTS, "samples-*.jsonl", *SAID)
WHOLE = ("best-step-*", f"{CHECKPOINTS}/step-*", MODEL)  # folders that appear by a rename, and then stay
STOP = "stop"


def is_folder(storage: str) -> bool:
    return "://" not in storage


def home_of(storage: str, folder: str | None, key: str) -> Path:
    """The run's workspace on the cluster: all machines that train it must see this folder."""
    own = folder or (storage if is_folder(storage) else HOME)
    return Path(own).expanduser() / key


def store_of(storage: str, key: str, name: str) -> Store:
    """What both sides see of the run's folder."""
    return Store(f"{storage.rstrip('/')}/{key}/runs/{name}")


class Mirror:
    """Brings a run's folder to its storage as it grows, so that what is read there is always whole."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self._sent: dict[str, object] = {}

    def send(self) -> None:
        """What is new. Folders before the record that speaks of them, a checkpoint's seal after its files."""
        record = (self.folder / FILE).read_bytes()  # as it was before what follows was looked at
        for pattern in WHOLE:
            for folder in sorted(self.folder.glob(pattern)):
                self._send_folder(folder)
        for pattern in LINES:
            for path in sorted(self.folder.glob(pattern)):
                self._send_file(path, path.name)
        if self._sent.get(FILE) != record:
            aside = self.folder / f".sent-{FILE}"
            aside.write_bytes(record)
            self.store.put(aside, FILE)
            aside.unlink()
            self._sent[FILE] = record
        self._forget()

    def _send_folder(self, folder: Path) -> None:
        name = folder.relative_to(self.folder).as_posix()
        stamp = folder.stat().st_mtime_ns if folder.is_dir() else None
        if stamp is None or self._sent.get(name) == stamp:
            return
        files = sorted(
            (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.name == SEAL
        )
        try:
            for path in files:
                self.store.put(path, path.relative_to(self.folder).as_posix())
        except FileNotFoundError:  # an old checkpoint goes while it is sent
            return
        self._sent[name] = stamp

    def _send_file(self, path: Path, name: str) -> None:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if self._sent.get(name) != stamp:
            self.store.put(path, name)
            self._sent[name] = stamp

    def _forget(self) -> None:
        """Folders that the run has dropped: of a checkpoint the seal goes first."""
        gone = {name for name in self._sent if "step-" in name and not (self.folder / name).exists()}
        for folder in gone:
            for name in sorted(self.store.names(folder), key=lambda name: not name.endswith(SEAL)):
                self.store.remove(name)
            del self._sent[folder]


def bring(store: Store, folder: Path, names: Iterable[str]) -> None:
    """Copy these files of the storage into the run's folder here; a checkpoint's seal comes last."""
    for name in sorted(names, key=lambda name: name.endswith(SEAL)):
        store.get(name, folder / name)
