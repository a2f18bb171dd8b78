"""Do all sides of a tokenizer say the same? The room's verifiers ask them, and hold them to the trainer."""

from __future__ import annotations

import gc
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptw.errors import NotBuilt, PtwError
from ptw.runs.record import RunRecord
from ptw.tokens.sides import Side
from ptw.verify.judge import Verifier, measure
from ptw.verify.phases import Phases
from ptw.verify.reports.report import Measured, SubjectReport
from ptw.verify.tokenizers.explain import explained
from ptw.verify.tokenizers.subjects import Held, Subject, declared, trained
from ptw.workspace.document import FILE
from ptw.workspace.manifest import Workspace

Answers = dict[str, Any]
TOLD = 3  # faults that a side and the trainer share


def verify_tokenizers(
    workspace: Workspace,
    chosen: Sequence[str | RunRecord],
    verifiers: Sequence[Verifier],
    level: str,
    seed: int,
    phases: Phases,
) -> Iterator[SubjectReport]:
    """Of tokenizers by their names in workspace.toml, and of runs; what is wrong is in the report."""
    for one in chosen:
        name = one if isinstance(one, str) else one.name
        with (
            phases(f"comparing {name}"),
            _uncollected(),
            tempfile.TemporaryDirectory(prefix="ptw-tokens-") as folder,
        ):
            try:
                if isinstance(one, str):
                    subject = declared(workspace, one, Path(folder) / "export", level, seed)
                else:
                    subject = trained(workspace, one, level, seed)
                report = judged(subject, verifiers)
            except NotBuilt as error:
                report = SubjectReport(name, file=FILE, waits=str(error), not_run=(str(error),))
            except PtwError as error:
                report = SubjectReport(name, failures=(str(error),), file=FILE)
        yield report


@contextmanager
def _uncollected() -> Iterator[None]:
    """Vocabularies are a million objects without a cycle: looking for one takes half of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass
class _Said:
    """What is found, verifier by verifier."""

    measured: list[Measured] = field(default_factory=list)
    by_case: list[tuple[str, str, str, float]] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    culprits: dict[str, set[str]] = field(default_factory=dict)  # of each side, those told of


def judged(subject: Subject, verifiers: Sequence[Verifier]) -> SubjectReport:
    """Every side by every verifier; the worst side of each metric stands in the report."""
    said = _Said()
    for verifier in verifiers:
        _ask(verifier, subject, said)
    return SubjectReport(
        subject.name,
        tuple(said.measured),
        failures=(*subject.failures, *said.failures),
        file=FILE,
        cases=len(subject.inputs["texts"]) + len(subject.inputs["chats"]),
        by_case=tuple(said.by_case),
        explained=tuple(said.explained),
        remarks=(*subject.remarks, *said.remarks),
        not_run=(*subject.missing, *said.not_run),
    )


def _ask(verifier: Verifier, subject: Subject, said: _Said) -> None:
    ours = _answers(verifier, subject.trainer, subject)
    wanted = [metric for metric in verifier.limits if verifier.applies(metric, ours)]
    if not wanted or all(answer is None for answer in ours.values()):
        said.not_run.append(f"{verifier.name} was not run: nothing of this tokenizer concerns it")
        return
    values: dict[str, list[tuple[float, Held]]] = {metric: [] for metric in wanted}
    for held in subject.others:
        if held.asked is not None and verifier.name not in held.asked:
            continue
        theirs = _answers(verifier, held.side, subject)
        for metric, value in measure(verifier, ours, theirs).items():
            binds = held.must(verifier.name, metric)
            if binds:
                values.setdefault(metric, []).append((value, held))
                said.by_case.append((verifier.name, metric, held.side.name, value))
            if not value <= verifier.limits[metric]:
                differ = _differing(metric, ours, theirs)
                known = said.culprits.setdefault(held.side.name, set())
                words = explained(subject.trainer, held.side, differ, subject.inputs, known)
                words = words or _in_words(metric, theirs)
                told = list(_told(verifier.name, metric, held, value, words))
                (said.explained if binds else said.remarks).extend(told)
    for metric, found in values.items():
        if found:
            said.measured.append(_worst(verifier, metric, found, ours))
        else:
            said.failures.append(f"{verifier.name}: a limit without a value: no side gave {metric!r}")


def _answers(verifier: Verifier, side: Side, subject: Subject) -> Answers:
    assert verifier.probe is not None
    try:
        return dict(verifier.probe(side, subject.inputs))
    except Exception as error:
        raise PtwError(
            f"verifier {verifier.name} failed on {side.name}: {type(error).__name__}: {error}"
        ) from error


def _differing(metric: str, ours: Answers, theirs: Answers) -> dict[str, tuple[Any, Any]]:
    """METRIC/NAME -> what the trainer says and what the side says."""
    keys = [key for key in ours.keys() | theirs.keys() if key.startswith(f"{metric}/")]
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def _in_words(metric: str, theirs: Answers) -> list[str]:
    """What a side's own answers say is wrong, and the trainer's say alike: the first few."""
    said = [(key.partition("/")[2], answer) for key, answer in theirs.items() if key.startswith(f"{metric}/")]
    return [f"{name}: {answer}" for name, answer in said if isinstance(answer, str) and answer][:TOLD]


def _told(verifier: str, metric: str, held: Held, value: float, words: Sequence[str]) -> Iterator[str]:
    start = f"{verifier}, {held.side.name}: {metric}: {value:.0f} differ"
    yield from (f"{start}; {text}" for text in words) if words else [start]


def _worst(verifier: Verifier, metric: str, found: Sequence[tuple[float, Held]], ours: Answers) -> Measured:
    """The side with the largest value; where all are within the limit, how much was compared."""
    value, held = max(found, key=lambda entry: (math.isnan(entry[0]), entry[0]))
    limit = float(verifier.limits[metric])
    compared = sum(answer is not None for key, answer in ours.items() if key.startswith(f"{metric}/"))
    what = f"{len(found)} sides, {compared} each" if value <= limit else held.side.name
    return Measured(verifier.name, metric, value, limit, what)
