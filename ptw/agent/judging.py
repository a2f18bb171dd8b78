"""What does the gate say to a port? Asked in a process of its own, and put into words for its author."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptw.agent.environment import clean
from ptw.errors import PtwError
from ptw.verify.cases import cache_folder
from ptw.verify.sandbox import PACKAGE
from ptw.workspace import rooms

MOST_WORDS, MOST_REFUSED = 14, 12
LONGEST = 600  # characters of one thing said
SECONDS = 1800
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """Of one port. `failed`: verifiers above a limit; `report` is what `ptw verify --json` wrote."""

    level: str
    passed: bool
    failed: tuple[str, ...]
    report: Report

    @property
    def port(self) -> Report:
        found: Report = self.report["ports"][0]
        return found

    @property
    def refused(self) -> tuple[str, ...]:
        """The cases that the port refused by name."""
        return tuple(self.port["refused"])

    @property
    def brief(self) -> str:
        """In a line, the same on every machine."""
        if self.passed:
            return "passed"
        return "failed: " + (", ".join(self.failed) or "it could not be judged")

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def practice(root: Path, model_type: str, only: Sequence[str] = ()) -> Verdict:
    """Of the port that stands in the workspace `root`, on the fixed cases."""
    flags = [flag for name in only for flag in ("--only", name)]
    return _verify(root, model_type, "practice", flags)


def accept(root: Path, model_type: str, text: str, model: Mapping[str, Any]) -> Verdict:
    """Of this text, on cases drawn afresh, in a workspace that nobody but the gate has seen.

    `root` gives verifiers of the user's own; `model` is the table of the checkpoint, its folder absolute.
    """
    with tempfile.TemporaryDirectory(prefix="ptw-accept-") as folder:
        place = Path(folder)
        (place / "models").mkdir()
        (place / "models" / f"{model_type}.py").write_text(text, encoding="utf-8")
        if (root / "verifiers").is_dir():
            shutil.copytree(root / "verifiers", place / "verifiers")
        lines = [f"{key} = {json.dumps(value)}" for key, value in model.items() if key in ("hf", "revision")]
        table = ["[models.accepted]", *lines] if lines else []
        (place / "workspace.toml").write_text("\n".join(['[workspace]\nname = "acceptance"', *table]) + "\n")
        return _verify(place, model_type, "acceptance", [])


def practice_config(root: Path, name: str) -> str | None:
    """The config.json of a practice case that was drawn in this workspace; of several draws the newest."""
    found = cache_folder(root).glob("cases/*/given/*/checkpoint/config.json")
    files = [file for file in found if file.parent.parent.name == name]
    return max(files, key=lambda file: file.stat().st_mtime).read_text(encoding="utf-8") if files else None


def gate_files() -> dict[str, str]:
    """Of all that judges, file by file, a digest: whoever has a shell could have changed it."""
    files = [file for folder in (PACKAGE, rooms.stock("verifiers")) for file in sorted(folder.rglob("*.py"))]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def located(verdict: Verdict) -> str:
    """Module by module, in the order in which they run, how far the port is from the reference."""
    heat = verdict.port.get("heat")
    if not heat:
        return "nothing was traced: the last practice passed, or no case could be run by both"
    lines = [f"case {heat['case']}, one document of {heat['length']} tokens; the worst relative difference:"]
    for row, values in zip(heat["rows"], heat["values"], strict=True):
        numbers = [float(value) for value in values]
        first = next((at for at, value in enumerate(numbers) if not value <= 1e-11), None)
        where = "agrees" if first is None else f"{max(numbers):.1e}, from position {heat['starts'][first]} on"
        lines.append(f"  {row or 'the model'}: {where}")
    return "\n".join(lines)


def _verify(root: Path, model_type: str, level: str, flags: Sequence[str]) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="ptw-verdict-") as folder:
        file = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "ptw",
            "verify",
            model_type,
            "--level",
            level,
            "--json",
            str(file),
            *flags,
        ]
        environment = clean() | {"PYTHONPATH": str(PACKAGE.parent), "PYTHONSAFEPATH": "1"}
        try:
            ended = subprocess.run(
                command,
                cwd=root,
                env=environment,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PtwError(f"models/{model_type}.py: the gate took longer than {SECONDS} seconds") from error
        if not file.exists():
            raise PtwError(ended.stderr.strip() or f"ptw verify ended with {ended.returncode} and no report")
        report: Report = json.loads(file.read_text())
    measured = report["ports"][0]["measured"]
    failed = dict.fromkeys(entry["verifier"] for entry in measured if not entry["passed"])
    return Verdict(level, bool(report["passed"]), tuple(failed), report)


def _lines(verdict: Verdict) -> Iterator[str]:
    port = verdict.port
    measured = port["measured"]
    names = list(dict.fromkeys(entry["verifier"] for entry in measured))
    # where cases crashed, those that were compared are none to speak of
    fine = [name for name in names if name not in verdict.failed and not port["failures"]]
    yield f"{verdict.level}: {'PASSED' if verdict.passed else 'FAILED'} on {port['cases']} cases"
    if fine:
        yield f"within their limits: {', '.join(fine)}"
    for name in verdict.failed:
        yield from (_metric(entry) for entry in measured if entry["verifier"] == name and not entry["passed"])
    others = [] if verdict.level == "acceptance" else _asked_later()
    if others and not verdict.report.get("only"):
        yield f"asked at acceptance only: {', '.join(others)}"
    words = [] if verdict.passed else _once(port["words"])
    yield from (f"- {_short(text)}" for text in words[:MOST_WORDS])
    if len(words) > MOST_WORDS:
        yield f"- and {len(words) - MOST_WORDS} more of the kind"
    if not port["refused"]:
        yield "the port refused no case"
    yield from (
        f"refused by the port, so not verified: {_short(text)}" for text in port["refused"][:MOST_REFUSED]
    )


def _once(words: Sequence[str]) -> list[str]:
    """What is said of several cases alike is said of the first."""
    return list({re.sub(r"\bcase \S+", "", text): text for text in reversed(words)}.values())[::-1]


def _asked_later() -> list[str]:
    """The verifiers that practice does not ask."""
    read = ((name, rooms.load(file)) for name, file in rooms.files(None, "verifiers").items())
    return [name for name, module in read if "practice" not in getattr(module, "LEVELS", ("practice",))]


def _metric(entry: Mapping[str, Any]) -> str:
    value = float(entry["value"])
    said = f"{entry['metric']} is {value:.2g}, the limit {entry['limit']:g}"
    return f"{entry['verifier']}: {said}, in case {entry['case']}"


def _short(text: str) -> str:
    """Its two ends: of a traceback the last line says what."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} [...] {text[-half:]}"
