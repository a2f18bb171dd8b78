"""The user's repository stays as it is until a port is accepted, and then has one commit on a branch."""

import subprocess
from pathlib import Path

import pytest

from ptw.agent.worktree import Worktree
from ptw.errors import PtwError


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_port_is_one_commit_on_a_branch_of_its_own(workspace: Path) -> None:
    (workspace / "notes.txt").write_text("not committed yet")
    before = (workspace / "workspace.toml").read_bytes()
    tree = Worktree(workspace, "add-large-001")
    tree.open()
    (tree.root / "models").mkdir()
    (tree.root / "models" / "mistral.py").write_text("draft")
    (tree.root / "workspace.toml").write_text("broken by an agent")
    table = {"config": {"model_type": "mistral"}}
    branch, commit = tree.commit_port("large", table, "models/mistral.py", "the port\n", "Port mistral")
    tree.close()
    assert branch == "ptw/add-large"
    assert git(workspace, "rev-parse", branch) == commit
    assert git(workspace, "rev-list", "--count", f"main..{branch}") == "1"
    assert git(workspace, "diff", "--name-only", "main", branch).split() == [
        "models/mistral.py",
        "workspace.toml",
    ]
    assert git(workspace, "show", f"{branch}:models/mistral.py") == "the port"
    assert "# What we train; order and comments matter" in git(workspace, "show", f"{branch}:workspace.toml")
    assert "broken" not in git(workspace, "show", f"{branch}:workspace.toml")
    # and here nothing has changed
    assert (workspace / "workspace.toml").read_bytes() == before
    assert git(workspace, "status", "--porcelain") == "?? notes.txt"
    assert git(workspace, "branch", "--show-current") == "main"
    assert git(workspace, "worktree", "list").count("\n") == 0


def test_a_taken_branch_is_left_alone(workspace: Path) -> None:
    git(workspace, "branch", "ptw/add-large")
    tree = Worktree(workspace, "add-large-002")
    table = {"config": {"model_type": "mistral"}}
    assert tree.commit_port("large", table, "models/mistral.py", "p\n", "Port")[0] == "ptw/add-large-2"
    tree.close()


def test_a_workspace_inside_a_repository_is_found_there(tmp_path: Path, workspace: Path) -> None:
    inner = workspace / "team" / "films"
    inner.mkdir(parents=True)
    (inner / "workspace.toml").write_text('[workspace]\nname = "films"\n')
    git(workspace, "add", "--all")
    git(workspace, "commit", "-q", "-m", "Move in")
    tree = Worktree(inner, "add-x-001")
    branch, _ = tree.commit_port(
        "x", {"config": {"model_type": "mistral"}}, "models/mistral.py", "p\n", "Port"
    )
    tree.close()
    names = git(workspace, "diff", "--name-only", "main", branch).split()
    assert names == ["team/films/models/mistral.py", "team/films/workspace.toml"]


def test_what_else_differs_is_seen(workspace: Path) -> None:
    tree = Worktree(workspace, "add-x-001")
    tree.open()
    (tree.root / "models").mkdir()
    (tree.root / "models" / "mistral.py").write_text("port")
    assert tree.strangers("models/mistral.py") == []
    (tree.root / "verifiers").mkdir()
    (tree.root / "verifiers" / "logits.py").write_text("LIMITS = {}")
    (tree.root / "workspace.toml").write_text("")
    assert sorted(tree.strangers("models/mistral.py")) == ["verifiers/logits.py", "workspace.toml"]
    tree.close()


def test_where_there_is_no_repository_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "workspace.toml").write_text('[workspace]\nname = "a"\n')
    with pytest.raises(PtwError, match="git init"):
        Worktree(tmp_path, "add-x-001")
