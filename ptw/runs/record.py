"""What does a run's folder hold? run.json says what ran, from what, with which settings, and how it ended."""

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.runs import lock

RUNS = "runs"
FILE = "run.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
MODEL = "model"
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
STATES = ("running", "done", "stopped", "failed")
# of a plan: where, by whom and when it is worked on
CIRCUMSTANCES = ("root", "file", "folder", "overrides", "threads", "launch", "host", "tracking")
FOLDER = re.compile(r"(?P<recipe>.+)-(?P<number>\d{3,})")


@dataclass(frozen=True)
class RunRecord:
    """run.json, and the folder that it stands in."""

    folder: Path
    recipe: str  # its name in workspace.toml
    plan: Mapping[str, Any]  # all that a worker is handed
    created: str
    state: str = "running"
    message: str | None = None  # why it failed or stopped
    finished: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str | None = None  # of the tokenizer
    job: Mapping[str, Any] | None = None  # to which cluster it was handed, and where its files are seen
    faults: Mapping[str, int] = field(default_factory=dict)  # steps: nan, spikes, and of both those skipped

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = self.plan["settings"]
        return settings

    def as_json(self) -> dict[str, Any]:
        """What run.json holds, and the name."""
        return {"name": self.name, **_values(self)}


def create(root: Path, recipe: str, **facts: Any) -> RunRecord:
    """A new run folder under the next free number; two at once get two numbers."""
    runs = root / RUNS
    runs.mkdir(exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=runs))
    try:
        aside.chmod(0o755)
        write(RunRecord(folder=aside, recipe=recipe, created=now(), **facts))
        folder = _renamed(aside, runs, recipe)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return read(folder)


def _renamed(aside: Path, runs: Path, recipe: str) -> Path:
    """`aside` becomes <recipe>-<NNN>; the rename fails where another run took the number first."""
    number = 1 + max((_number(folder) for folder in _folders(runs, recipe)), default=0)
    while True:
        folder = runs / f"{recipe}-{number:03d}"
        try:
            aside.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            number += 1
        else:
            return folder


def write(record: RunRecord) -> None:
    """run.json, written aside, then renamed."""
    write_json(record.folder / FILE, _values(record))


def write_json(path: Path, values: Any) -> None:
    """A JSON file that a reader never sees half."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        hint = "make room, or change the permissions"
        raise PtwError(f"{path}: cannot be written: {error.strerror}; {hint}") from error


def change(folder: Path, **changes: Any) -> RunRecord:
    """Other values for some fields; a state that ends the run sets when."""
    ends = changes.get("state", "running") != "running"
    record = dataclasses.replace(_parsed(folder), **changes, finished=now() if ends else None)
    write(record)
    return record


def read(folder: Path) -> RunRecord:
    """The record; a run that says it runs and that nobody works on was killed."""
    record = _parsed(folder)
    if record.state == "running" and lock.was_started(folder) and not lock.is_held(folder):
        return dataclasses.replace(record, state="stopped", message="was killed")
    return record


def list_runs(root: Path) -> list[RunRecord]:
    """All runs of a workspace, the oldest first."""
    runs = root / RUNS
    folders = [path.parent for path in runs.glob(f"*/{FILE}") if not path.parent.name.startswith(".")]
    return sorted((read(folder) for folder in folders), key=lambda record: (record.created, record.name))


def open_run(root: Path, name: str) -> RunRecord:
    """The run of this name; a recipe's name stands for its newest run."""
    records = list_runs(root)
    named = [record for record in records if name in (record.name, record.recipe)]
    exact = [record for record in named if record.name == name]
    if not named:
        known = ", ".join(record.name for record in records[-10:]) or "none yet: `ptw train NAME` makes one"
        raise PtwError(f"no run named {name!r}; there are: {known}")
    return (exact or named)[-1]


def made_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan says of the run itself."""
    return {key: value for key, value in plan.items() if key not in CIRCUMSTANCES}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables by their dotted names; what is none is left out."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif value is not None:
            found[name] = value
    return found


def model_folder(record: RunRecord) -> Path:
    """The run's trained model in HF's format; PtwError while it has none."""
    folder = record.folder / MODEL
    if not folder.is_dir():
        hint = f"`ptw train {record.recipe} --resume` goes on with it"
        raise PtwError(f"run {record.name} is {record.state} and has no model yet; {hint}")
    return folder


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _folders(runs: Path, recipe: str) -> list[Path]:
    matches = [(path, FOLDER.fullmatch(path.name)) for path in runs.iterdir()]
    return [path for path, match in matches if match and match["recipe"] == recipe]


def _number(folder: Path) -> int:
    match = FOLDER.fullmatch(folder.name)
    assert match
    return int(match["number"])


def _values(record: RunRecord) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name != "folder"}


def _parsed(folder: Path) -> RunRecord:
    path = folder / FILE
    try:
        return RunRecord(folder=folder, **json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise PtwError(f"{path}: not a run's record ({error}); remove {folder} if it is of no use") from error
