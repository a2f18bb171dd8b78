"""The whole command against a paid endpoint: killed at any entry it goes on, and pays for nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.agent.conftest import Answer, Endpoint

ROOT = Path(__file__).resolve().parents[2]
RECORDING = Path(__file__).parent / "recordings" / "starcoder2.jsonl"
KILLED_AFTER = (("event", 1), ("prompt", 1), ("reply", 1), ("result", 1), ("reply", 2))
SECONDS = 600


def recorded() -> list[Answer]:
    replies = [json.loads(line) for line in RECORDING.read_text().splitlines()[1:]]
    choices = [[{"index": 0, "message": one["message"], "finish_reason": one["finish"]}] for one in replies]
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    about = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    return [Answer(about | {"choices": one}) for one in choices]


def started(workspace: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "ptw", "add-model", *arguments]
    return subprocess.Popen(
        command,
        cwd=workspace,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def entries(workspace: Path) -> list[str]:
    """The kinds of the entries on disk, in order."""
    found = list(workspace.glob("runs/add-*/steps.jsonl"))
    return [json.loads(line)["kind"] for line in found[0].read_text().splitlines()] if found else []


def killed_after(running: subprocess.Popen[bytes], workspace: Path, kind: str, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while entries(workspace).count(kind) < count:
        assert running.poll() is None, running.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()


@pytest.mark.slow
@pytest.mark.timeout(len(KILLED_AFTER) * SECONDS)
def test_a_run_that_is_killed_again_and_again_pays_once(workspace: Path, endpoint: Endpoint) -> None:
    endpoint.says(recorded())
    flags = ["writer", "--hf", "starcoder2", "--api-base", endpoint.url]
    for kind, count in KILLED_AFTER:
        running = started(workspace, *flags)
        killed_after(running, workspace, kind, count)
        (run,) = (folder.name for folder in (workspace / "runs").glob("add-*"))
        flags = ["--resume", run]
    done = started(workspace, *flags)
    said, told = done.communicate(timeout=SECONDS)
    assert done.returncode == 0, told.decode()
    assert said.decode().strip() == "ptw/add-writer"
    assert len(endpoint.asked) == 2
    assert entries(workspace).count("reply") == 2
    assert not list((workspace / ".ptw" / "worktrees").glob("*"))
    listed = subprocess.run(
        ["git", "diff", "--name-only", "main", "ptw/add-writer"],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == ["models/starcoder2.py", "workspace.toml"]


@pytest.mark.slow
def test_a_family_that_has_a_port_needs_no_llm(workspace: Path, endpoint: Endpoint) -> None:
    endpoint.says([])
    done = started(workspace, "base", "--hf", "qwen3", "--api-base", endpoint.url)
    said, told = done.communicate(timeout=SECONDS)
    assert done.returncode == 0, told.decode()
    assert said.decode().strip() == "ptw/add-base"
    assert endpoint.asked == []
    shown = subprocess.run(
        ["git", "show", "ptw/add-base:workspace.toml"],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "[models.base" in shown.stdout
    assert "# who ports" in shown.stdout
    log = subprocess.run(
        ["git", "log", "-1", "--format=%B", "ptw/add-base"],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "nobody" in log.stdout
