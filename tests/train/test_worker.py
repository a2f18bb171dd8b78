"""A run begun without Ray: what it writes down, and how it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ptw.runs import record
from ptw.train import launch, worker
from ptw.train.plan import resolve
from ptw.workspace.manifest import read
from tests.train.conftest import steps_of


def begun(root: Path, steps: int) -> Path:
    """A plan's file."""
    path = root / "plan.json"
    path.write_text(json.dumps(resolve(read(root), "next", {"steps": str(steps)}).as_json()))
    return path


def test_what_is_done_stays_as_it_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert worker.main(begun(root, 2)) == 0
    folder = root / "runs" / "next-001"
    before = [(path, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))]
    assert worker.main(folder / record.FILE) == 0
    assert "next-001 is done" in capsys.readouterr().err
    assert [(path, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))] == before


def test_a_run_begun_alone_may_go_on_elsewhere(root: Path) -> None:
    worker.main(begun(root, 2))
    found = record.change(root / "runs" / "next-001", state="stopped")
    assert len(steps_of(found.folder)) == 2
    assert found.digests
    assert found.fingerprint
    assert launch._resumed(read(root), "next", {}).folder == found.folder


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_what_is_no_plan_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    assert worker.main(path) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_tiny_numbers_are_zero_while_it_trains(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled() -> float:
        return float(torch.tensor(1e-39) * 2)

    with worker.tiny_as_zero():
        if doubled() != 0:
            pytest.skip("torch knows no way on this processor")
    seen, train = list[float](), worker._train

    def look(*arguments: Any) -> None:
        seen.append(doubled())
        train(*arguments)

    monkeypatch.setattr(worker, "_train", look)
    worker.main(begun(root, 2))
    assert seen == [0.0]
    assert doubled() > 0
