"""A change is verified where it reaches, and one that changes its own judges is named as such."""

from pathlib import Path

import pytest
from git import Actor, Repo

from ptw.errors import PtwError
from ptw.verify import changed
from ptw.workspace import rooms

ME = Actor("me", "me@example.com")
STOCK = rooms.files(None, "models")
PORT = "from torch import nn\nfrom ptw.nn.norm import RMSNorm\n"
LIMITS = (
    'LIMITS = {{\n    "last": {last},\n    "first": 0.0,\n}}\ndef measure(ours, theirs):\n    return {{}}\n'
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace below the top of its repository, with a port and a verifier of its own."""
    root = tmp_path / "repository" / "catalogue"
    for name, text in (
        ("models/llama.py", PORT),
        ("models/qwen3.py", PORT),
        ("verifiers/mine.py", LIMITS.format(last="1e-10")),
        ("recipes/sft.py", "settings = 1\n"),
        ("ci/gate.sh", "true\n"),
        ("constraints.txt", "torch==2.13\n"),
    ):
        write(root / name, text)
    repository = Repo.init(root.parent, initial_branch="main")
    repository.git.add("--all")
    repository.index.commit("Begin", author=ME, committer=ME)
    repository.close()
    return root


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def since(root: Path, reference: str = "main") -> changed.Change:
    return changed.since(root, reference, rooms.files(root, "models"))


def test_nothing_changed_touches_nothing(workspace: Path) -> None:
    change = since(workspace)
    assert (change.ports, change.recipes, change.verifiers, change.notes) == ((), (), (), ())


def test_a_port_is_verified_whose_file_changed_committed_or_not(workspace: Path) -> None:
    write(workspace / "models" / "llama.py", PORT + "# another\n")
    write(workspace / "models" / "mistral.py", PORT)
    assert set(since(workspace).ports) == {"llama", "mistral"}
    repository = Repo(workspace.parent)
    repository.git.checkout("-b", "branch")
    repository.git.add("--all")
    repository.index.commit("Change", author=ME, committer=ME)
    assert set(since(workspace).ports) == {"llama", "mistral"}
    repository.git.checkout("main")
    write(workspace / "models" / "qwen3.py", PORT + "# of main\n")
    repository.git.add("--all")
    repository.index.commit("Go on", author=ME, committer=ME)
    repository.git.checkout("branch")
    repository.close()
    # what the other branch did meanwhile is not this one's change
    assert set(since(workspace).ports) == {"llama", "mistral"}


def test_a_port_is_verified_of_which_a_part_changed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = workspace / "part.py"
    write(part, "x = 1\n")
    monkeypatch.setattr(
        changed.closure, "closure", lambda files: (*files, part) if "llama" in str(files) else files
    )
    assert set(since(workspace).ports) == {"llama"}


def test_the_closure_of_a_stock_port_holds_what_it_computes_with() -> None:
    names = {file.name for file in changed.closure.closure([STOCK["llama"]])}
    assert {"norm.py", "rope.py", "attention.py", "weights.py", "errors.py"} <= names


def test_what_judges_is_named_and_verifies_everything(workspace: Path) -> None:
    write(workspace / "ci" / "gate.sh", "exit 0\n")
    write(workspace / "recipes" / "sft.py", "settings = 2\n")
    change = since(workspace)
    assert change.recipes == ("sft",)
    assert [note.file for note in change.gate] == ["ci/gate.sh"]
    assert "touches the gate itself" in change.gate[0].text
    write(workspace / "constraints.txt", "torch==2.14\n")
    assert set(since(workspace).ports) == set(rooms.files(workspace, "models"))
    assert "constraints.txt" in {note.file for note in since(workspace).gate}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (LIMITS.format(last="1e-2"), 2, "takes last <= 0.01, before 1e-10"),
        (LIMITS.format(last="float('nan')"), 1, "can't be read without running it"),
        (LIMITS.format(last="1e-10").replace('    "first": 0.0,\n', ""), 1, "no longer limits first"),
        ('LEVELS = ("practice",)\n' + LIMITS.format(last="1e-10"), 1, "no longer runs at acceptance"),
        ("LIMITS = dict(last=1e9)\n", 1, "can't be read without running it"),
        (None, 1, "is removed"),
    ],
)
def test_a_loosened_limit_is_named_at_its_line(
    workspace: Path, text: str | None, line: int, words: str
) -> None:
    file = workspace / "verifiers" / "mine.py"
    if text is None:
        file.unlink()
    else:
        write(file, text)
    change = since(workspace)
    (note,) = change.loosened
    assert (note.file, note.line) == ("verifiers/mine.py", line)
    assert words in note.text
    assert set(change.ports) == set(rooms.files(workspace, "models"))


def test_a_tightened_limit_and_a_new_verifier_loosen_nothing(workspace: Path) -> None:
    write(workspace / "verifiers" / "mine.py", LIMITS.format(last="1e-12"))
    write(workspace / "verifiers" / "more.py", LIMITS.format(last="1e9"))
    change = since(workspace)
    assert not change.loosened
    assert [note.file for note in change.gate] == ["verifiers/mine.py", "verifiers/more.py"]


def test_a_stock_verifier_can_not_be_loosened_and_the_try_is_named(workspace: Path) -> None:
    write(workspace / "verifiers" / "logits.py", LIMITS.format(last="1e9"))
    (note,) = since(workspace).loosened
    assert "has no effect" in note.text


def test_what_git_can_not_say_is_an_error_with_what_would_do(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(PtwError, match="fetch"):
        since(workspace, "origin/nowhere")
    write(tmp_path / "none" / "models" / "llama.py", PORT)
    with pytest.raises(PtwError, match="git repository"):
        since(tmp_path / "none")
