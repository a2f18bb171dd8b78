"""While the gate works it says at what, and how far it has come; where nobody looks it says nothing."""

import time
from pathlib import Path

import pytest

from ptw.cli import verifying
from ptw.errors import PtwError
from ptw.verify.phases import POLL_SECONDS, Phases


def test_a_phase_tells_its_count_as_it_grows() -> None:
    told: list[str] = []
    phase, done = Phases(told.append), 0
    with phase("running ports", lambda: f"llama {done}/2"):
        time.sleep(2 * POLL_SECONDS)
        done = 2
    assert told[0] == "running ports"
    assert any("llama 0/2" in step for step in told)
    assert told[-1].startswith("running ports: llama 2/2 (")
    assert [name for name, _ in phase.seconds] == ["running ports"]
    assert {verifying.named(step) for step in told} == {"running ports"}


def test_a_phase_that_fails_ends_its_telling() -> None:
    told: list[str] = []
    with pytest.raises(LookupError), Phases(told.append)("judging"):
        raise LookupError
    count = len(told)
    time.sleep(2 * POLL_SECONDS)
    assert len(told) == count


def test_where_there_is_no_terminal_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with verifying.progress() as tell:
        tell("drawing cases")
        tell("running ports: llama 1/2")
    assert capsys.readouterr() == ("", "")


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "new" / "gate.html"
    verifying.put(file, "\ud800 and so on")
    assert "and so on" in file.read_text()
    assert [path.name for path in file.parent.iterdir()] == ["gate.html"]
    with pytest.raises(PtwError, match="cannot be written"):
        verifying.put(file / "below", "x")
