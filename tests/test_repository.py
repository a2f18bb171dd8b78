"""This repository is a workspace: its own commands find nothing wrong with it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import figures


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


def test_the_page_shows_the_figures_that_were_measured() -> None:
    written = figures.PAGE.read_text(encoding="utf-8")
    assert written == figures.page(), "`python -m benchmarks.figures` writes them anew"


@pytest.mark.slow
def test_what_measures_a_gpu_runs_without_one(repository: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "full", "lora", "head"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["part"] for row in rows] == ["full", "lora", "head"]
    assert all(row["tokens/s"] > 0 for row in rows[:2])


def test_links_lead_somewhere(repository: Path) -> None:
    """Of every page that people read: to a file, and to a heading of it."""
    pages = [*repository.glob("*.md"), *repository.glob("docs/*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
            place, _, anchor = link.partition("#")
            if "://" in place:
                continue
            target = (page.parent / place) if place else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def without_code(page: Path) -> str:
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"(?m)^#+ (.*)$", without_code(page))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
