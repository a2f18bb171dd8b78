"""Recorded conversations run again, every tool call and every verdict live, and come to what they came to.

Each runs in an installation that has the ports which there were when it was recorded.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = sorted((Path(__file__).parent / "recordings").glob("*.jsonl"))


def read(recording: Path) -> tuple[dict, list[dict]]:
    head, *replies = [json.loads(line) for line in recording.read_text().splitlines()]
    return head, replies


def installed(head: dict, folder: Path) -> Path:
    """ptw with these ports and no others."""
    for name in ("ptw", "verifiers", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "models").mkdir()
    for port in head["ports"]:
        shutil.copyfile(ROOT / "models" / f"{port}.py", folder / "models" / f"{port}.py")
    return folder


def ptw(installation: Path, workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installation), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "ptw", *arguments]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("recording", RECORDINGS, ids=[one.stem for one in RECORDINGS])
def test_a_recording_comes_to_what_it_came_to(recording: Path, workspace: Path, tmp_path: Path) -> None:
    head, replies = read(recording)
    installation = installed(head, tmp_path / "room")
    flags = ["--hf", head["model_type"], "--replay", str(recording)]
    if head["budget_usd"] is not None:
        flags += ["--budget-usd", str(head["budget_usd"])]
    done = ptw(installation, workspace, "add-model", "new", *flags)
    shown = ptw(installation, workspace, "runs", "show", "add-new")
    assert shown.returncode == 0, shown.stderr
    for reply in replies:
        for call in reply["message"].get("tool_calls") or []:
            assert f"-> {call['function']['name']}" in shown.stdout
    accepted = not replies or "accepted" in replies[-1]["came"]
    files = ["models/" + head["model_type"] + ".py", "workspace.toml"]
    if not accepted:
        assert done.returncode == 1
        assert "budget_usd" in done.stderr
        assert git(workspace, "branch", "--list", "ptw/*") == ""
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ptw/add-new"
    assert git(workspace, "diff", "--name-only", "main", "ptw/add-new").split() == files
    assert git(workspace, "status", "--porcelain") == ""


def test_there_are_recordings_and_they_are_small() -> None:
    assert len(RECORDINGS) >= 4
    for recording in RECORDINGS:
        assert recording.stat().st_size < 150_000


@pytest.mark.parametrize("recording", RECORDINGS, ids=[one.stem for one in RECORDINGS])
def test_a_recording_holds_no_reading_no_path_and_no_key(recording: Path) -> None:
    text = recording.read_text()
    for odd in ("/home/", "/root/", "/tmp/", "/work/", "sk-", "hf_", "class LlamaRotaryEmbedding"):
        assert odd not in text


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()
