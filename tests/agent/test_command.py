"""`ptw add-model` as a user types it: what is wrong is said before anything is read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def ptw(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ptw", *arguments]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["add-model"], 2, "NAME and --hf SOURCE, or --resume RUN"),
        (["add-model", "small", "--hf", "mistral"], 1, "there is a [models.small] already"),
        (["add-model", "no name", "--hf", "mistral"], 1, "no name for a model"),
        (["add-model", "new", "--hf", "mistrall"], 1, "did you mean 'mistral'?"),
        (["add-model", "new", "--hf", "bert", "--replay", "none.jsonl"], 1, "none.jsonl"),
        (["add-model", "new", "--hf", "mistral", "--revision", "abc"], 1, "leave it out"),
        (["add-model", "new", "--hf", "mpt", "--agent-command", "no-such-agent"], 1, "no such program"),
        (["add-model", "--resume", "add-new-001"], 1, "no run named"),
    ],
)
def test_what_is_wrong_is_said(workspace: Path, arguments: list[str], code: int, said: str) -> None:
    done = ptw(workspace, *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert not (workspace / ".ptw" / "worktrees").exists()


def without(workspace: Path, *keys: str) -> None:
    lines = (workspace / "workspace.toml").read_text().splitlines(keepends=True)
    (workspace / "workspace.toml").write_text("".join(line for line in lines if not line.startswith(keys)))


@pytest.mark.slow
def test_a_dry_run_says_that_there_is_a_port(workspace: Path) -> None:
    done = ptw(workspace, "add-model", "new", "--hf", "llama", "--dry-run")
    assert "models/llama.py is a port of llama: that is judged, and nobody is asked" in done.stdout


def test_a_model_without_a_price_is_refused(workspace: Path) -> None:
    without(workspace, "usd_per_million")
    done = ptw(workspace, "add-model", "new", "--hf", "starcoder2", "--llm", "openai/nobody-knows-it")
    assert done.returncode == 1
    assert "has no known price" in done.stderr
    assert not (workspace / "runs").exists()


def test_nobody_to_write_is_said(workspace: Path) -> None:
    without(workspace, "llm")
    done = ptw(workspace, "add-model", "new", "--hf", "starcoder2")
    assert "--agent-command 'claude -p'" in done.stderr


def test_a_dry_run_shows_the_reading_the_prompt_and_its_price(workspace: Path) -> None:
    done = ptw(workspace, "add-model", "new", "--hf", "starcoder2", "--dry-run")
    assert done.returncode == 0, done.stderr
    for needed in (
        "tokens  reference/modeling_starcoder2.py",
        "tokens in all",
        "first prompt: $0.0",
        "--- system",
    ):
        assert needed in done.stdout
    assert not (workspace / "runs").exists()
