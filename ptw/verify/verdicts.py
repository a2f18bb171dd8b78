"""Has this port been verified as it stands? A pass is kept by the content of all that it depends on.

Only passes of practice are kept, and only where the port's process could not reach the place. Nothing heavy
is imported: an unchanged port costs about nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.verify import closure, sandbox
from ptw.verify.reports.machine import processor, versions
from ptw.verify.reports.report import Audit, Divergence, Effect, Heat, Measured, Note, SubjectReport

FOLDER = Path(".ptw") / "verify"
GATE = Path(__file__).parent
PARTS: dict[str, type[Any]] = {
    "measured": Measured,
    "effects": Effect,
    "notes": Note,
    "heat": Heat,
    "divergence": Divergence,
    "audit": Audit,
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    report: SubjectReport
    not_enforced: tuple[str, ...]


class Verdicts:
    """Those of one workspace, for one way of verifying."""

    def __init__(self, root: Path, verifiers: Mapping[str, Path], level: str, seed: int, device: str) -> None:
        self.root, self.folder = root, root / FOLDER / "verdicts"
        gate = closure.digest([*sorted(GATE.rglob("*.py")), *verifiers.values()])
        self.base = [
            gate,
            level,
            seed,
            device,
            list(versions()),
            processor(),
            list(sandbox.namespaces() or ()),
        ]

    def find(self, port: str, file: Path) -> Verdict | None:
        """The pass that was reached for exactly this, if there is one."""
        return self.find_at(self.place(port, file))

    def find_at(self, place: Path) -> Verdict | None:
        try:
            return _restored(json.loads(place.read_text()))
        except (OSError, ValueError, TypeError, KeyError):  # none, or one that something cut short
            return None

    def keep(self, place: Path, report: SubjectReport, not_enforced: tuple[str, ...]) -> None:
        """Under the `place` that was asked for before the port was read: it may have been changed since."""
        if not report.passed or report.waits or sandbox.namespaces() is None:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        values = dataclasses.asdict(report) | {"kept": time.strftime("%Y-%m-%d %H:%M:%S")}
        descriptor, aside = tempfile.mkstemp(dir=place.parent, prefix=".new-")
        with open(descriptor, "w") as stream:
            json.dump({"report": values, "not_enforced": not_enforced}, stream)
        os.replace(aside, place)

    def place(self, port: str, file: Path) -> Path:
        """Named by the contents of all that the verdict on this port depends on."""
        return self.named(port, [closure.digest([file]), list(_checkpoints(self.root))])

    def named(self, subject: str, depends: list[object]) -> Path:
        """The place of a verdict that depends on this, besides the gate itself."""
        said = json.dumps([*self.base, subject, *depends])
        return self.folder / f"{subject}-{hashlib.sha256(said.encode()).hexdigest()[:32]}.json"


def refuse_tracked(root: Path) -> None:
    """PtwError if what is kept came with the repository: whoever wrote it there could have written a pass."""
    if not (root / FOLDER).exists():
        return
    import git  # slow to import

    try:
        repository = git.Repo(root, search_parent_directories=True)
    except (git.InvalidGitRepositoryError, git.NoSuchPathError):
        return
    with repository:
        tracked = repository.git.ls_files("--", str(root / FOLDER)).splitlines()
    if tracked:
        raise PtwError(
            f"{tracked[0]}: kept verdicts and answers stand in the repository, where anyone could have "
            f"written them: git rm -r --cached {FOLDER}, and delete the folder"
        )


def _checkpoints(root: Path) -> Iterator[list[object]]:
    """The real weights that ports are held to, as far as they lie in folders."""
    try:
        models = tomllib.loads((root / "workspace.toml").read_text()).get("models", {})
    except (OSError, ValueError):  # said by `ptw check`
        return
    for name, model in sorted(models.items()):
        yield [name, json.dumps(model, default=str)]
        folder = root / str(model.get("hf", ".ptw/none"))
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield [file.name, file.stat().st_size, file.stat().st_mtime_ns]


def _restored(values: dict[str, Any]) -> Verdict:
    report = values["report"]
    for name, kind in PARTS.items():
        report[name] = _part(kind, report[name])
    found = SubjectReport(**_frozen(report))
    if not found.passed:
        raise ValueError("only passes are kept")
    return Verdict(found, tuple(values["not_enforced"]))


def _part(kind: type[Any], value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_part(kind, entry) for entry in value)
    return None if value is None else kind(**_frozen(value))


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _tuples(value) for name, value in values.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value
