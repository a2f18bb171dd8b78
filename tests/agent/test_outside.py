"""A coding agent of one's own: with a shell in the worktree, without credentials, one file to change."""

import shlex
import sys
import time
from pathlib import Path

import pytest

from ptw.agent import outside
from ptw.agent.conversation import Conversation
from ptw.agent.desk import Desk, Result
from ptw.agent.environment import clean
from ptw.agent.judging import Verdict
from ptw.agent.loop import Accepted, Stopped
from ptw.agent.outside import Command
from ptw.agent.reading.pages import Page
from ptw.agent.worktree import Worktree
from ptw.errors import PtwError


def command(tmp_path: Path, text: str, minutes: float = 1.0, *names: str) -> Command:
    file = tmp_path / "agent.py"
    file.write_text(f"import os, sys, time\nfrom pathlib import Path\n{text}")
    return Command(f"{shlex.quote(sys.executable)} {file}", names, minutes)


@pytest.fixture
def tree(workspace: Path) -> Worktree:
    made = Worktree(workspace, "add-x-001")
    made.open()
    return made


@pytest.fixture
def desk(tree: Worktree) -> Desk:
    def unasked(text: str) -> Verdict:
        raise AssertionError("nobody asked for acceptance")

    return Desk(
        "mistral", tree.root, [Page("reference/modeling_mistral.py", "class Mistral: ...")], unasked, 2
    )


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is handed in, judged by its text: the gate has tests of its own."""
    seen: list[str] = []

    def submit(desk: Desk) -> Result:
        seen.append(desk.text)
        desk.submissions += 1
        report = {
            "seed": 1,
            "ports": [{"cases": 1, "measured": [], "words": [], "notes": [], "refused": [], "failures": []}],
        }
        right = "right" in desk.text
        verdict = Verdict("acceptance", right, () if right else ("logits",), report)
        return Result("logits: relative is 1", "accepted" if right else "rejected", verdict)

    monkeypatch.setattr(outside, "submit", submit)
    return seen


def work(asked: Command, tree: Worktree, desk: Desk, folder: Path) -> Accepted:
    folder.mkdir(exist_ok=True)
    return outside.work(asked, tree, desk, "The family is mistral.", Conversation(folder), lambda entry: None)


WRITE = """
port = Path("models/mistral.py")
port.parent.mkdir(exist_ok=True)
told = Path("TASK.md").read_text()
assert "class Mistral" in Path("reading/reference/modeling_mistral.py").read_text()
assert "-m ptw verify mistral" in told and "The family is mistral." in told
port.write_text("right" if "What the gate said" in told else "wrong")
"""


def test_it_is_called_until_the_gate_accepts(
    tmp_path: Path, tree: Worktree, desk: Desk, judged: list[str]
) -> None:
    accepted = work(command(tmp_path, WRITE), tree, desk, tmp_path / "run")
    assert accepted.text == "right"
    assert judged == ["wrong", "right"]


def test_it_sees_no_variable_that_it_was_not_promised(
    tmp_path: Path, tree: Worktree, desk: Desk, judged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OUR_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "ITS_KEY"):
        monkeypatch.setenv(name, "planted")
    seen = "Path('models/mistral.py').write_text('right ' + repr(sorted(os.environ)))"
    text = f"Path('models').mkdir(exist_ok=True)\n{seen}"
    accepted = work(command(tmp_path, text, 1.0, "ITS_KEY"), tree, desk, tmp_path / "run")
    assert "ITS_KEY" in accepted.text
    assert "PATH" in accepted.text
    for name in ("OUR_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"):
        assert name not in accepted.text
        assert name not in clean()


@pytest.mark.parametrize(
    "name", ["workspace.toml", "verifiers/logits.py", "models/llama.py", "sitecustomize.py"]
)
def test_it_may_change_one_file_only(
    tmp_path: Path, tree: Worktree, desk: Desk, judged: list[str], name: str
) -> None:
    text = f"file = Path({name!r})\nfile.parent.mkdir(exist_ok=True)\nfile.write_text('right')"
    with pytest.raises(Stopped, match=f"changed more than models/mistral.py: {name}"):
        work(command(tmp_path, text), tree, desk, tmp_path / "run")
    assert not judged


def test_a_gate_that_was_changed_is_not_asked(
    tmp_path: Path, tree: Worktree, desk: Desk, judged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter([{"ptw/a.py": "1", "ptw/b.py": "1"}, {"ptw/a.py": "1", "ptw/b.py": "2"}])
    monkeypatch.setattr(outside.judging, "gate_files", lambda: next(digests))
    with pytest.raises(Stopped, match=r"the gate itself was changed: ptw/b\.py; install"):
        work(command(tmp_path, ""), tree, desk, tmp_path / "run")
    assert not judged


def test_it_ends_at_its_time_with_all_that_it_started(
    tmp_path: Path, tree: Worktree, desk: Desk, judged: list[str]
) -> None:
    text = f"os.fork()\ntime.sleep(2)\nPath({str(tmp_path / 'late')!r}).touch()"
    with pytest.raises(Stopped, match="minutes are over"):
        work(command(tmp_path, text, 0.01), tree, desk, tmp_path / "run")
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_a_program_that_is_not_there_is_said() -> None:
    with pytest.raises(PtwError, match="no such program"):
        outside.refuse_unknown("no-such-agent -p")
