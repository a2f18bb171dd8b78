"""What is asked when, and of which cases; what a machine can't do is said, and is no port's failure."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ptw.verify import gate, judge, sandbox
from ptw.verify.judge import CaseFiles
from ptw.verify.passes import passes
from ptw.workspace import rooms

ROOT = Path(__file__).resolve().parents[2]
SOME = """LIMITS = {"cold": 1.0, "warm": 1.0}
def applies(metric, theirs):
    return metric in theirs
def measure(ours, theirs):
    return {name: value.item() for name, value in theirs.items()}
"""


def test_each_kind_of_case_and_each_circumstance_is_a_pass_of_its_own() -> None:
    found = passes(judge.read_verifiers(rooms.files(None, "verifiers")))
    assert [one.name for one in found][:2] == ["together", "sharded"]
    by_name = {one.name: one for one in found}
    assert {one.name for one in by_name["sharded"].verifiers} == {"sharding"}
    assert by_name["sharded"].module == "ptw.verify.port.trace_sharded"
    assert by_name["speed"].alone
    assert by_name["checkpoint"].folder == "checkpoint"
    assert by_name["together"].folder == "given"
    assert passes([])[0].name == "together"


@pytest.mark.parametrize(
    ("theirs", "passed"),
    [({"cold": 0.5}, True), ({"cold": 2.0}, False), ({"other": 0.5}, False), ({}, False)],
)
def test_a_limit_counts_where_it_can_be_had_and_one_of_them_must(
    theirs: dict[str, float], passed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heat.py").write_text(SOME)
    said = {f"heat/{name}": torch.tensor(value) for name, value in theirs.items()}
    monkeypatch.setattr(judge, "_read", lambda case, refused: ({}, said))
    case = CaseFiles("plain", tmp_path, tmp_path, (), tmp_path, tmp_path, tmp_path)
    report = judge.judge("llama", [case], judge.read_verifiers({"heat": tmp_path / "heat.py"}))
    assert report.passed == passed, report.failures


def test_where_processes_cannot_be_linked_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_of: Callable[[str], str]
) -> None:
    if sandbox.namespaces() is None:
        pytest.skip("without a network of its own the machine's loopback is there")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "llama.py").write_text(text_of("llama"))
    (ROOT / ".ptw").mkdir(exist_ok=True)
    (tmp_path / ".ptw").symlink_to(ROOT / ".ptw")
    run_apart = sandbox.run_apart

    def unlinked(*arguments: Any, **named: Any) -> sandbox.Outcome:
        outcome = run_apart(*arguments, **named | {"linked": False})
        lacking = ("no loopback of its own: Operation not permitted",) if named.get("linked") else ()
        return replace(outcome, missing=(*outcome.missing, *lacking))

    monkeypatch.setattr(sandbox, "run_apart", unlinked)
    monkeypatch.setattr(rooms, "files", only(rooms.files, "decode", "sharding"))
    report = gate.run_gates(tmp_path, ["llama"])
    assert report.passed, report.ports[0].failures
    assert {entry.verifier for entry in report.ports[0].measured} == {"decode"}
    (said,) = [entry for entry in report.not_enforced if "sharding" in entry]
    assert "sharding could not be run: " in said


def only(files: Callable[..., dict[str, Path]], *names: str) -> Callable[..., dict[str, Path]]:
    def chosen(root: Path | None, room: str) -> dict[str, Path]:
        found = files(root, room)
        return {name: found[name] for name in names} if room == "verifiers" else found

    return chosen
