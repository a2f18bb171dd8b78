"""Processes killed at any moment change no bit of a run: a short form of benchmarks/kill_resume.py."""

import random
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import kill_resume
from benchmarks.workspaces import ptw


@pytest.mark.slow
def test_workers_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    ptw(tmp_path, "init", "kills", "--size", "200")
    root = tmp_path / "kills"
    (root / "workspace.toml").write_text(kill_resume.TOML)
    draw, hits = random.Random(1), Counter[str]()
    undisturbed = kill_resume.killed_run(root, kill_resume.Forked(root), draw, hits, 0)
    killed = kill_resume.killed_run(root, kill_resume.Forked(root), draw, hits, 4)
    assert hits.total() > 1
    figures = kill_resume.compared(undisturbed, [killed])
    assert [figure.value for figure in figures] == [0, 0, 0]
