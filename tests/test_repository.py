"""This repository is a workspace: its own commands find nothing wrong with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.readme import README, with_table


def ptw(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ptw", *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_repository_passes_its_own_check(repository: Path) -> None:
    checked = ptw(repository, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("names", [["llama"], pytest.param([], id="all", marks=pytest.mark.slow)])
def test_the_repository_verifies_its_own_ports(repository: Path, names: list[str]) -> None:
    verified = ptw(repository, "verify", *names, "--json", "-")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert json.loads(verified.stdout)["passed"]


def test_the_readme_shows_the_figures_that_were_measured() -> None:
    readme = README.read_text(encoding="utf-8")
    assert with_table(readme) == readme, "`python -m benchmarks.readme` writes them anew"
