"""Cases and the reference's answers for the gate's tests: drawn once, kept with the repository's own."""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ptw.ports.port import load_port
from ptw.verify import cases, judge, sandbox, subject
from ptw.verify.cases import Family, Reference
from ptw.verify.judge import CaseFiles, Verifier
from ptw.verify.passes import passes
from ptw.verify.port import trace
from ptw.verify.port.adapted import AdaptedPort
from ptw.verify.reports.report import SubjectReport
from ptw.workspace import rooms

PORTS = ("llama", "qwen3")
ROOT = Path(__file__).resolve().parents[2]
# those whose probes run in one process on drawn cases; the others have tests of their own
VERIFIERS = {
    verifier.name: verifier.file
    for verifier in passes(judge.read_verifiers(rooms.files(None, "verifiers")))[0].verifiers
}
COMPUTED = cases.computing(list(VERIFIERS.values()))
ASKED = ("configuration", "logits", "packing", "decode")  # of a port that is wrong in its numbers
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Answered:
    """A family's practice cases; the reference is asked about one when a test first needs it."""

    family: Family
    reference: Reference
    kept: Path

    def case(self, start: str) -> str:
        """The one case of this name, without its number."""
        (name,) = [name for name in self.family.names if name.partition("-")[2] == start]
        return name

    def answers(self, name: str) -> Path:
        """Where the reference's answers to a case lie."""
        given = self.family.given / name
        kept = self.kept / cases.digest(COMPUTED, given)
        if not kept.is_dir():
            with tempfile.TemporaryDirectory() as aside:
                self.reference.answer(asked(self.family, name, Path(aside)))
                cases.publish(Path(aside), kept)
        return kept

    def theirs(self, name: str, *, reopened: bool = False) -> Tensors:
        """What the reference said, and what was given."""
        given = load_file(self.family.given / name / "inputs.safetensors")
        given |= {f"weights.{key}": tensor for key, tensor in self.weights(name).items()}
        said = load_file(self.answers(name) / "said.safetensors")
        said |= load_file(self.answers(name) / "reopened.safetensors") if reopened else {}
        return said | {f"/given.{key}": tensor for key, tensor in given.items()}

    def weights(self, name: str) -> Tensors:
        return load_file(self.family.given / name / "checkpoint" / "model.safetensors")

    def files(self, name: str, ours: Path, source: Path) -> CaseFiles:
        """The export that the reference looked at is the original checkpoint itself."""
        drawn = self.family.folder / "drawn" / f"{name}.json"
        answer, reopened = (self.answers(name) / f"{end}.safetensors" for end in ("said", "reopened"))
        return CaseFiles(name, self.family.given / name, drawn, (ours,), answer, reopened, source)


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Answered]]:
    """By port; kept with the repository's own cases."""
    folder, cache = tmp_path_factory.mktemp("cases"), cases.cache_folder(ROOT)
    reference = Reference()
    families = cases.draw(PORTS, "practice", 0, folder, cache, reference)
    yield {family.model_type: Answered(family, reference, cache / "tests") for family in families}
    reference.close()


def asked(family: Family, name: str, answers: Path) -> list[dict[str, object]]:
    """What the gate asks of the reference; handed over is a copy of the checkpoint, and of the adapter."""
    given, handed = family.given / name, answers / "handed"
    shutil.copytree(given / "checkpoint", handed / "export")
    if (given / "adapter").is_dir():
        port = load_port(rooms.stock("models") / f"{family.model_type}.py")
        AdaptedPort(port, None, given / "checkpoint", given / "adapter").save(handed / "adapter")
    said = {"given": str(given), "verifiers": [str(file) for file in VERIFIERS.values()]}
    return [
        said | {"write": str(answers / "said.safetensors")},
        said | {"write": str(answers / "reopened.safetensors"), "handed": str(handed)},
    ]


@pytest.fixture(scope="session")
def stock_verifiers() -> dict[str, Verifier]:
    return {verifier.name: verifier for verifier in judge.read_verifiers(VERIFIERS)}


@pytest.fixture
def text_of() -> Callable[[str], str]:
    return functools.cache(lambda port: (rooms.stock("models") / f"{port}.py").read_text())


@pytest.fixture
def write_port(tmp_path: Path) -> Callable[[str, str], Path]:
    """A workspace with this text as its port; gives the workspace's root."""

    def write(port: str, text: str) -> Path:
        root = tmp_path / "workspace"
        (root / "models").mkdir(parents=True, exist_ok=True)
        (root / "models" / f"{port}.py").write_text(text)
        return root

    return write


@pytest.fixture
def measured(
    answered: dict[str, Answered],
    stock_verifiers: dict[str, Verifier],
    write_port: Callable[[str, str], Path],
) -> Callable[[str, str, str], dict[str, float]]:
    """Trace a port's text on one case, in this process, and measure it: {"logits.relative": ...}."""

    asked = subject.probes({name: VERIFIERS[name] for name in ASKED})

    def measure(port: str, text: str, case: str) -> dict[str, float]:
        root = write_port(port, text)
        one = answered[port]
        name = one.case(case)
        given = one.family.given / name
        loaded = load_port(root / "models" / f"{port}.py")
        ours = trace.trace(loaded, root, asked, given, root / "handed")
        theirs = one.theirs(name)
        return {
            f"{verifier}.{metric}": value
            for verifier in asked
            for metric, value in stock_verifiers[verifier]
            .measure(judge.of_verifier(ours, verifier), judge.of_verifier(theirs, verifier))
            .items()
        }

    return measure


@pytest.fixture
def judged_apart(
    answered: dict[str, Answered],
    stock_verifiers: dict[str, Verifier],
    write_port: Callable[[str, str], Path],
    tmp_path: Path,
) -> Callable[..., tuple[sandbox.Outcome, SubjectReport]]:
    """Run a port's text in the sandbox on its plain case, and judge what it wrote."""

    def run(port: str, text: str, seconds: int = 60) -> tuple[sandbox.Outcome, SubjectReport]:
        root = write_port(port, text)
        one = answered[port]
        name = one.case("plain")
        only = tmp_path / "cases"
        only.mkdir()
        os.symlink(one.family.given / name, tmp_path / "link")
        cases.publish(tmp_path / "link", only / name)
        gate = tmp_path / "gate"
        gate.mkdir()
        (gate / trace.GO).touch()
        room = tmp_path / "verifiers"
        room.mkdir()
        for file in VERIFIERS.values():
            shutil.copy(file, room)
        inputs = {"workspace": root, "cases": only, "verifiers": room, "gate": gate}
        limits = sandbox.Limits(seconds=seconds)
        outcome = sandbox.run_apart("ptw.verify.port.trace", inputs, tmp_path / "output", limits)
        source = root / "models" / f"{port}.py"
        files = one.files(name, tmp_path / "output" / name, source)
        # one case alone is no case of a field
        judges = [one for name, one in stock_verifiers.items() if name != "configuration"]
        return outcome, judge.judge(port, [files], judges)

    return run
