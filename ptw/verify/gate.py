"""Does every port stand for its reference? Draws cases, runs each port apart, asks the reference, judges."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ptw.errors import PtwError
from ptw.ports.source import resolve
from ptw.verify import cases, sandbox
from ptw.verify.cases import Family, Reference
from ptw.verify.judge import CaseFiles, Verifier, judge, read_verifiers
from ptw.verify.report import PortReport, Report
from ptw.workspace import manifest, rooms

Level = Literal["practice", "acceptance"]
Progress = Callable[[str], None]
SIDE_BY_SIDE = 2  # ports, and processes of the reference
PRACTICE_SEED = 0


def run_gates(
    root: Path | None,
    names: Sequence[str] = (),
    level: Level = "practice",
    seed: int | None = None,
    progress: Progress = lambda step: None,
) -> Report:
    """Verify the ports that `names` name (model types, or models of the workspace; none means all).

    An acceptance draws a seed of its own unless one is given. PtwError for a name that nothing bears and for
    a verifier that can't be used; whatever a port does is in the report.
    """
    chosen = choose(root, names)
    verifiers = read_verifiers(rooms.files(root, "verifiers"))
    if seed is None:
        seed = PRACTICE_SEED if level == "practice" else secrets.randbits(48)
    with tempfile.TemporaryDirectory(prefix="ptw-verify-") as folder:
        return _Gate(root, chosen, verifiers, level, seed, Path(folder), progress).run()


def choose(root: Path | None, names: Sequence[str]) -> dict[str, Path]:
    """model_type -> file of the ports to verify."""
    known = rooms.files(root, "models")
    if not names:
        if not known:
            raise PtwError("models: there is no port to verify; add models/<model_type>.py")
        return dict(known)
    types = [name if name in known else _port_of_model(root, name, known) for name in names]
    return {model_type: known[model_type] for model_type in types}


def _port_of_model(root: Path | None, name: str, known: Mapping[str, Path]) -> str:
    models = manifest.read(root).models if root is not None and (root / "workspace.toml").exists() else {}
    if name not in models:
        places = ", ".join([*known, *models])
        raise PtwError(f"verify: {name!r} is neither a port nor a model of the workspace; known: {places}")
    model = models[name]
    model_type = model.port or (model.config or {}).get("model_type")
    if model_type is None and model.hf is not None and root is not None:
        config = resolve(model.hf, model.revision, root) / "config.json"
        try:
            model_type = json.loads(config.read_text())["model_type"]
        except (OSError, ValueError, KeyError) as error:
            raise PtwError(f"{config}: model_type can't be read: {error!r}") from error
    if model_type not in known:
        raise PtwError(
            f"workspace.toml: models.{name}: there is no port of {model_type!r} to verify: "
            "it runs on Hugging Face's own class"
        )
    return str(model_type)


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
        self.folder, self.progress = folder, progress
        self.cache = cases.cache_folder(root)
        # without a file tree of its own a port could read what was kept
        self.keeps = sandbox.namespaces() is not None
        self.seconds: list[tuple[str, float]] = []

    def run(self) -> Report:
        with contextlib.ExitStack() as stack:
            # it imports while ports run; not needed when all that it would say is kept
            drawn = self.level == "practice" and cases.are_kept(list(self.ports), self.seed, self.cache)
            warm = [] if drawn or not self.keeps else [self._warm_reference(stack)]
            with self._phase("drawing cases"):
                place = self.folder / "cases"
                families = cases.draw(list(self.ports), self.level, self.seed, place, self.cache)
            with self._phase("running ports"), ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
                outcomes = list(pool.map(self._run_port, families))
            with self._phase("asking the reference"):
                self._ask(families, warm, stack)
            with self._phase("judging"):
                found = [self._judge(*pair) for pair in zip(families, outcomes, strict=True)]
        missing = tuple(dict.fromkeys(entry for outcome in outcomes for entry in outcome.missing))
        return Report(
            self.level,
            self.seed,
            tuple(found),
            not_enforced=missing,
            versions=tuple(cases.versions()),
            seconds=tuple(self.seconds),
        )

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.progress(name)
        start = time.monotonic()
        yield
        self.seconds.append((name, round(time.monotonic() - start, 2)))

    def _warm_reference(self, stack: contextlib.ExitStack) -> Reference:
        reference = Reference()
        stack.callback(reference.close)
        return reference

    def _run_port(self, family: Family) -> sandbox.Outcome:
        """A workspace with this one port, frozen: what is verified is what was read now."""
        if not family.names:
            return sandbox.Outcome()
        workspace = self.folder / "workspaces" / family.model_type
        (workspace / "models").mkdir(parents=True)
        shutil.copyfile(self.ports[family.model_type], workspace / "models" / f"{family.model_type}.py")
        inputs = {"workspace": workspace, "cases": family.given}
        output = self.folder / "outputs" / family.model_type
        return sandbox.run_apart("ptw.verify.trace_port", inputs, output)

    def _files(self, family: Family, name: str) -> CaseFiles:
        answers = self.folder / "answers" / family.model_type
        answers.mkdir(parents=True, exist_ok=True)
        return CaseFiles(
            name=name,
            given=family.given / name,
            drawn=family.folder / "drawn" / f"{name}.json",
            ours=self.folder / "outputs" / family.model_type / name,
            reference=answers / f"{name}.safetensors",
            export=answers / f"{name}.export.safetensors",
        )

    def _ask(self, families: Sequence[Family], warm: list[Reference], stack: contextlib.ExitStack) -> None:
        """What the cache doesn't hold is computed, by as many processes as there are cores."""
        files = [self._files(family, name) for family in families for name in family.names]
        requests = [request for case in files for request in _requests(case)]
        kept = {request["write"]: self.cache / "answers" / _name(request) for request in requests}
        missing = []
        for request in requests:
            if self.keeps and kept[request["write"]].exists():
                shutil.copyfile(kept[request["write"]], request["write"])
            else:
                missing.append(request)
        if not missing:
            return
        workers = warm or [self._warm_reference(stack)]
        if len(missing) > 40:  # a second import is worth it
            workers.append(self._warm_reference(stack))
        with ThreadPoolExecutor(len(workers)) as pool:
            shares = [missing[start :: len(workers)] for start in range(len(workers))]
            list(pool.map(lambda worker, share: worker.ask(share), workers, shares))
        if self.keeps and self.level == "practice":
            for request in missing:
                if Path(request["write"]).exists():
                    cases.publish(Path(request["write"]), kept[request["write"]])

    def _judge(self, family: Family, outcome: sandbox.Outcome) -> PortReport:
        if family.error:
            failure = f"no cases could be drawn: {family.error}"
            return PortReport(family.model_type, failures=(failure,))
        files = [self._files(family, name) for name in family.names]
        report = judge(family.model_type, files, self.verifiers)
        if outcome.error:
            report = replace(report, failures=(f"its process {outcome.error}", *report.failures))
        return report


def _requests(case: CaseFiles) -> Iterator[dict[str, str]]:
    """For what the port answered only: the rest has failed already."""
    if not (case.ours / "trace.safetensors").exists():
        return
    yield {"given": str(case.given), "write": str(case.reference)}
    yield {"given": str(case.given), "write": str(case.export), "export": str(case.ours / "export")}


def _name(request: dict[str, str]) -> str:
    folders = [Path(request[name]) for name in ("given", "export") if name in request]
    return f"{cases.digest(*folders)}.safetensors"
