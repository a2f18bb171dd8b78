"""Cases and the reference's answers for the gate's tests: drawn once, kept with the repository's own."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ptw.ports.port import load_port
from ptw.verify import cases, judge, sandbox, trace_port
from ptw.verify.cases import Family, Reference
from ptw.verify.judge import CaseFiles, Verifier
from ptw.verify.report import PortReport
from ptw.workspace import rooms

PORTS = ("llama", "qwen3")
ROOT = Path(__file__).resolve().parents[2]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Answered:
    """A family's practice cases, and where the reference's answers to them lie."""

    family: Family
    answers: Path

    def case(self, start: str) -> str:
        """The one case of this name, without its number."""
        (name,) = [name for name in self.family.names if name.partition("-")[2] == start]
        return name

    def theirs(self, name: str) -> Tensors:
        return load_file(self.answers / f"{name}.safetensors") | judge.given_tensors(self.family.given / name)

    def files(self, name: str, ours: Path) -> CaseFiles:
        drawn = self.family.folder / "drawn" / f"{name}.json"
        export = self.answers / f"{name}.export.safetensors"
        return CaseFiles(
            name, self.family.given / name, drawn, ours, self.answers / f"{name}.safetensors", export
        )


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answered]:
    """By port; the export that the reference looked at is the original checkpoint itself."""
    folder, cache = tmp_path_factory.mktemp("cases"), cases.cache_folder(ROOT)
    found = {}
    requests = []
    for family in cases.draw(PORTS, "practice", 0, folder, cache):
        answers = cache / "tests" / cases.digest(family.folder)
        found[family.model_type] = Answered(family, answers)
        if not answers.is_dir():
            aside = tmp_path_factory.mktemp("answers")
            for name in family.names:
                given = family.given / name
                export = {"export": str(given / "checkpoint")}
                requests.append({"given": str(given), "write": str(aside / f"{name}.safetensors")})
                requests.append(
                    {"given": str(given), "write": str(aside / f"{name}.export.safetensors"), **export}
                )
            found[family.model_type] = Answered(family, aside)
    if requests:
        Reference().ask(requests)
        for one in found.values():
            cases.publish(one.answers, cache / "tests" / cases.digest(one.family.folder))
    return found


@pytest.fixture(scope="session")
def stock_verifiers() -> dict[str, Verifier]:
    return {verifier.name: verifier for verifier in judge.read_verifiers(rooms.files(None, "verifiers"))}


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

    def measure(port: str, text: str, case: str) -> dict[str, float]:
        root = write_port(port, text)
        one = answered[port]
        name = one.case(case)
        ours = trace_port.trace(load_port(root / "models" / f"{port}.py"), root, one.family.given / name)
        theirs = one.theirs(name)
        return {
            f"{verifier}.{metric}": value
            for verifier in ("logits", "packing", "decode")
            for metric, value in stock_verifiers[verifier].measure(ours, theirs).items()
        }

    return measure


@pytest.fixture
def judged_apart(
    answered: dict[str, Answered],
    stock_verifiers: dict[str, Verifier],
    write_port: Callable[[str, str], Path],
    tmp_path: Path,
) -> Callable[..., tuple[sandbox.Outcome, PortReport]]:
    """Run a port's text in the sandbox on its plain case, and judge what it wrote."""

    def run(port: str, text: str, seconds: int = 60) -> tuple[sandbox.Outcome, PortReport]:
        root = write_port(port, text)
        one = answered[port]
        name = one.case("plain")
        only = tmp_path / "cases"
        only.mkdir()
        os.symlink(one.family.given / name, tmp_path / "link")
        cases.publish(tmp_path / "link", only / name)
        inputs = {"workspace": root, "cases": only}
        limits = sandbox.Limits(seconds=seconds)
        outcome = sandbox.run_apart("ptw.verify.trace_port", inputs, tmp_path / "output", limits)
        files = one.files(name, tmp_path / "output" / name)
        return outcome, judge.judge(port, [files], stock_verifiers.values())

    return run
