"""Does every port stand for its reference? Draws cases, runs each port apart, asks the reference, judges."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ptw.errors import PtwError
from ptw.verify import answers, cases, extra_cases, prune, sandbox
from ptw.verify.cases import Family, Reference
from ptw.verify.choose import choose
from ptw.verify.explaining import explain
from ptw.verify.judge import DRAWN, CaseFiles, Verifier, asked_for, judge, read_verifiers
from ptw.verify.passes import Pass, failed, passes, why_unlinked
from ptw.verify.phases import Phases, Progress
from ptw.verify.port import trace
from ptw.verify.reports.report import Report, SubjectReport
from ptw.workspace import rooms

Level = Literal["practice", "acceptance"]
LIMITS = sandbox.Limits(seconds=300)
PRACTICE_SEED = 0


def run_gates(
    root: Path | None,
    names: Sequence[str] = (),
    level: Level = "practice",
    seed: int | None = None,
    progress: Progress = lambda step: None,
    reference: Reference | None = None,
    *,
    traced: bool = False,
    only: Sequence[str] = (),
) -> Report:
    """Verify the ports that `names` name (model types, or models of the workspace; none means all).

    An acceptance draws a seed of its own unless one is given. PtwError for a name that nothing bears and for
    a verifier that can't be used; whatever a port does is in the report. Ports that fail are traced to where
    they first part from the reference, with `traced` all of them. `reference` may have been started before.
    `only` these verifiers are asked, where a port is being worked on: it is no verdict.
    """
    chosen = choose(root, names)
    read = read_verifiers(rooms.files(root, "verifiers"))
    verifiers = asked_for([verifier for verifier in read if level in verifier.levels], only)
    if seed is None:
        seed = PRACTICE_SEED if level == "practice" else secrets.randbits(48)
    with tempfile.TemporaryDirectory(prefix="ptw-verify-") as folder:
        gate = _Gate(root, chosen, verifiers, level, seed, Path(folder), progress)
        with contextlib.closing(reference or Reference()) as asked:
            report = gate.run(asked, traced)
    prune.prune(gate.cache)
    return report


class _Gate:
    """One run. Its phases follow each other: while a port's process lives, no reference output exists."""

    def __init__(
        self,
        root: Path | None,
        ports: Mapping[str, Path],
        verifiers: Sequence[Verifier],
        level: Level,
        seed: int,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.ports, self.verifiers, self.level, self.seed = ports, verifiers, level, seed
        self.root, self.folder, self.phase = root, folder, Phases(progress)
        self.passes = passes(verifiers)
        self.cache = cases.cache_folder(root)
        # without a file tree of its own a port could read what was kept
        self.keeps = sandbox.namespaces() is not None
        cores = os.cpu_count() or 1
        self.side_by_side = min(cores, len(ports))
        self.processes = max(1, cores // self.side_by_side)  # of each port
        self.gate = folder / "gate"
        self.stopped, self.drawn = threading.Event(), threading.Event()
        # to import while the cases are drawn, on the cores that this leaves
        self.turns = threading.Semaphore(max(1, cores - 1))
        self.outcomes: dict[str, list[sandbox.Outcome]] = {}
        self.impossible: list[str] = []  # what this machine can't do, whatever the port

    def run(self, reference: Reference, traced: bool = False) -> Report:
        for name, file in self.ports.items():
            self._freeze(name, file)
        # these import while the cases are drawn; the others need what is drawn after them, or quiet
        at_once = [one for one in self.passes if one.cases == DRAWN and not one.alone]
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(max(self.side_by_side, len(at_once))))
            for event in (self.drawn, self.stopped):  # nothing outlasts this, however it ends
                stack.callback(event.set)
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            started = {
                (name, one.name): pool.submit(self._run_port, name, one)
                for name in self.ports
                for one in at_once
            }
            with self.phase("drawing cases"):
                place = self.folder / "cases"
                families = cases.draw(list(self.ports), self.level, self.seed, place, self.cache, reference)
                self._go(families)
                self.drawn.set()
                self.turns.release(len(started))  # all cores are theirs
                self._add_cases(families, reference)
            with self.phase("running ports", lambda: self._count(families, "outputs")):
                for one in at_once:
                    self._ended(one, {name: started[name, one.name].result() for name in self.ports})
                for one in [one for one in self.passes if one not in at_once]:
                    self._ended(one, self._run_later(one, pool))
            with self.phase("asking the reference", lambda: self._count(families, "answers")):
                self._ask(families, reference)
            with self.phase("judging"):
                found = [self._judge(family) for family in families]
            if any(traced or not report.passed for report in found):
                with self.phase("locating"):
                    found = self._locate(families, found, reference, traced)
        outcomes = [outcome for each in self.outcomes.values() for outcome in each]
        missing = dict.fromkeys(entry for outcome in outcomes for entry in outcome.missing)
        return Report(
            self.level,
            self.seed,
            tuple(self._note(report) for report in found),
            not_enforced=(*missing, *self.impossible),
            seconds=tuple(self.phase.seconds),
        )

    def _count(self, families: Sequence[Family], folder: str) -> str:
        """Of how many cases each port, or its reference, has said something."""
        counts = []
        for family in families:
            place = self.folder / folder / family.model_type
            pattern = "*/*/*" if folder == "outputs" else "*"
            done = {str(path.relative_to(place)).split(".")[0] for path in place.glob(pattern)}
            done = {name.rpartition("/")[0] or name for name in done}
            total = len(family.names) * (len(self.passes) if folder == "outputs" else 1)
            counts.append(f"{family.model_type} {min(len(done), total)}/{total}")
        return ", ".join(counts)

    def _locate(
        self, families: Sequence[Family], found: Sequence[SubjectReport], reference: Reference, traced: bool
    ) -> list[SubjectReport]:
        """Nothing that the reference said is left where the ports run once more."""
        for name in ("answers", "outputs"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

        def one(family: Family, report: SubjectReport) -> SubjectReport:
            if family.error or (report.passed and not traced):
                return report
            file, folder = self._text(family.model_type), self.folder / "located" / family.model_type
            return explain.with_trace(report, family, file, folder, reference, LIMITS)

        return [one(family, report) for family, report in zip(families, found, strict=True)]

    def _note(self, report: SubjectReport) -> SubjectReport:
        return explain.with_notes(report, self.ports[report.name], self.root)

    def _text(self, port: str) -> Path:
        return self.folder / "workspaces" / port / "models" / f"{port}.py"

    def _freeze(self, name: str, file: Path) -> None:
        """A workspace with this one port, and the verifiers: what is verified is what was read now."""
        room = self.folder / "workspaces" / name / "models"
        room.mkdir(parents=True)
        shutil.copyfile(file, room / f"{name}.py")
        (self.folder / "cases" / name / "given").mkdir(parents=True)
        for one in self.passes:
            (self.folder / "verifiers" / one.name).mkdir(parents=True, exist_ok=True)
            for verifier in one.verifiers:
                shutil.copyfile(verifier.file, self.folder / "verifiers" / one.name / f"{verifier.name}.py")
        self.gate.mkdir(exist_ok=True)

    def _go(self, families: Sequence[Family]) -> None:
        for family in families:
            sandbox.readable(family.given)
        (self.gate / trace.GO).touch()

    def _add_cases(self, families: Sequence[Family], reference: Reference) -> None:
        kinds = {one.cases for one in self.passes}
        if "speed" in kinds:
            extra_cases.add_speed(families, reference)
        if "checkpoint" in kinds:
            extra_cases.add_checkpoints(families, self.root)

    def _run_port(self, name: str, one: Pass) -> sandbox.Outcome:
        inputs = {
            "workspace": self.folder / "workspaces" / name,
            "verifiers": self.folder / "verifiers" / one.name,
            "cases": self.folder / "cases" / name / one.folder,
            "gate": self.gate,
        }
        output = self.folder / "outputs" / name / one.name
        processes = self.processes if one.workers == 1 and not one.alone else one.workers

        def go() -> None:
            self.drawn.wait()
            if not (self.gate / trace.GO).exists():
                raise PtwError("drawing the cases failed")  # ends the process that waits for them

        shown = list(extra_cases.files_of(inputs["cases"])) if one.cases == "checkpoint" else []
        asked = (one.module, inputs, output, extra_cases.limits(LIMITS, shown), processes, go)
        linked = one.workers > 1
        return sandbox.run_apart(*asked, linked=linked, shown=shown, stopped=self.stopped, turn=self.turns)

    def _run_later(self, one: Pass, pool: ThreadPoolExecutor) -> dict[str, sandbox.Outcome]:
        """Those that have cases of this kind."""
        names = [name for name in self.ports if self._names(name, one)]
        each = map if one.alone else pool.map
        outcomes = each(lambda name: self._run_port(name, one), names)
        return dict(zip(names, outcomes, strict=True))

    def _ended(self, one: Pass, outcomes: Mapping[str, sandbox.Outcome]) -> None:
        """Two processes that can't be linked are nobody's failure."""
        outputs = [self.folder / "outputs" / name / one.name for name in outcomes]
        if one.workers > 1 and any(map(failed, outputs)) and (why := why_unlinked(self.folder / "tried")):
            verifiers = ", ".join(verifier.name for verifier in one.verifiers)
            self.impossible.append(f"{verifiers} could not be run: {why}")
            self.passes = [other for other in self.passes if other != one]
            return
        for name, outcome in outcomes.items():
            self.outcomes.setdefault(name, []).append(outcome)

    def _names(self, port: str, one: Pass) -> list[str]:
        """The cases of a pass."""
        folder = self.folder / "cases" / port / one.folder
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def _files(self, family: Family, name: str, kind: str = DRAWN) -> CaseFiles:
        own = [one for one in self.passes if one.cases == kind]
        answers = self.folder / "answers" / family.model_type
        answers.mkdir(parents=True, exist_ok=True)
        outputs = self.folder / "outputs" / family.model_type
        port = family.model_type
        return CaseFiles(
            name=name,
            given=family.folder / own[0].folder / name,
            drawn=family.folder / "drawn" / f"{name}.json",
            ours=tuple(outputs / one.name / name for one in own),
            answer=answers / f"{name}.safetensors",
            reopened=answers / f"{name}.reopened.safetensors",
            source=self._text(port),
            kind=kind,
        )

    def _ask(self, families: Sequence[Family], reference: Reference) -> None:
        """Kind by kind, since each is another verifier's; what takes times one case after the other."""
        for kind in dict.fromkeys(one.cases for one in self.passes):
            own = [one for one in self.passes if one.cases == kind]
            files = [
                self._files(family, name, kind)
                for family in families
                for name in self._names(family.model_type, own[0])
            ]
            for asked in [[one] for one in files] if own[0].alone else [files]:
                answers.ask(
                    asked,
                    [verifier.file for one in own for verifier in one.verifiers],
                    reference,
                    self.cache,
                    reads=self.keeps and kind == DRAWN,
                    keeps=self.keeps and kind == DRAWN and self.level == "practice",
                )

    def _judge(self, family: Family) -> SubjectReport:
        if family.error:
            failure = f"no cases could be drawn: {family.error}"
            return SubjectReport(family.model_type, failures=(failure,))
        files, verifiers, not_run = [], [], []
        for kind in dict.fromkeys(one.cases for one in self.passes):
            own = [one for one in self.passes if one.cases == kind]
            names = self._names(family.model_type, own[0])
            files += [self._files(family, name, kind) for name in names]
            asked = [verifier for one in own for verifier in one.verifiers]
            if names or kind == DRAWN:
                verifiers += asked
            else:
                why = extra_cases.why_not(family, kind)
                not_run += [f"{verifier.name} was not run: {why}" for verifier in asked]
        report = judge(family.model_type, files, verifiers)
        outcomes = self.outcomes[family.model_type]
        failures = tuple(f"its process {outcome.error}" for outcome in outcomes if outcome.error)
        report = replace(report, failures=(*failures, *report.failures), not_run=(*report.not_run, *not_run))
        drawn = [case for case in files if case.kind == DRAWN]
        report = explain.with_effects(report, family, drawn)
        return explain.with_audit(report, family, self.level)
