"""The gate in CI: a wrong branch fails at its line, a right one passes, one that bends the gate is named."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from git import Actor, Repo

from ptw.errors import PtwError
from ptw.workspace import ci, rooms, scaffold

ROOT = Path(__file__).resolve().parent.parent
ME = Actor("me", "me@example.com")
PLACES = {"github": ".github/workflows/gate.yml", "gitlab": ".gitlab-ci.yml"}
EXTRA = '''"""The last token is the reference's."""
LIMITS = {"last": 1e-10}
def probe(subject, inputs):
    return {"last": subject.exact().logits(inputs["ids"][:9])[-1]}
def measure(ours, theirs):
    return {"last": (ours["last"] - theirs["last"]).abs().max().item()}
'''
WRONG = ("config.rms_norm_eps)", "1.01 * config.rms_norm_eps)")


@dataclass(frozen=True)
class Ran:
    code: int
    log: str
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.folder / "gate.json").read_text())
        return values


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `ptw init --ci github` makes, with a port and a verifier; the cases are the repository's."""
    root = tmp_path_factory.mktemp("ci") / "catalogue"
    scaffold.init(root, size=50, ci_system="github")
    shutil.copy(ROOT / "models" / "llama.py", root / "models")
    (root / "verifiers" / "last.py").write_text(EXTRA)
    (ROOT / ".ptw" / "verify").mkdir(parents=True, exist_ok=True)
    (root / ".ptw" / "verify").symlink_to(ROOT / ".ptw" / "verify")
    commit(root, "Add a port and a verifier")
    return root


def commit(root: Path, message: str) -> None:
    with Repo(root) as repository:
        repository.git.add("--all")
        repository.index.commit(message, author=ME, committer=ME)


@pytest.fixture
def branch(workspace: Path, tmp_path: Path) -> Callable[[dict[str, str]], Ran]:
    """A branch with these files, and what the workflow's own step does to it as a pull request into main."""

    def run(files: dict[str, str]) -> Ran:
        with Repo(workspace) as repository:
            repository.git.checkout("-B", "branch", "main")
        for name, text in files.items():
            (workspace / name).write_text(text)
        commit(workspace, "Change")
        try:
            return step(workspace, tmp_path)
        finally:
            with Repo(workspace) as repository:
                repository.git.checkout("--force", "main")

    return run


def step(root: Path, folder: Path) -> Ran:
    """The `run` of the workflow's step named Gate, for the one port, at practice."""
    workflow = yaml.safe_load((ROOT / "ci" / "github.yml").read_text())
    (gate,) = [one for one in workflow["jobs"]["gate"]["steps"] if one.get("name") == "Gate"]
    assert gate["run"].rstrip().endswith('"$gate/gate.sh"')
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "ptw").write_text(f'#!/bin/sh\nexec {sys.executable} -m ptw "$@"\n')
    (bin_folder / "ptw").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "PTW_REPORTS": str(folder / "gate"),
        "PTW_LEVEL": "practice",
        "BASE": "main",
    }
    command = ["bash", "-e", "-c", gate["run"].rstrip() + " llama\n"]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)
    return Ran(ran.returncode, ran.stdout + ran.stderr, folder / "gate")


def annotations(log: str, kind: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith(f"::{kind} ")]


@pytest.mark.slow
def test_a_wrong_port_fails_with_an_annotation_at_its_line(branch: Callable[[dict[str, str]], Ran]) -> None:
    text = (ROOT / "models" / "llama.py").read_text()
    assert WRONG[0] in text
    ran = branch({"models/llama.py": text.replace(*WRONG)})
    assert ran.code == 1, ran.log
    (first, *_) = annotations(ran.log, "error")
    line = next(at for at, words in enumerate(text.splitlines(), 1) if WRONG[0] in words)
    assert first.startswith(f"::error file=models/llama.py,line={line},title=first divergence"), ran.log
    assert "input_layernorm" in first
    assert not annotations(ran.log, "warning")
    assert ran.report["change"]["ports"] == ["llama"]
    root = ElementTree.parse(ran.folder / "gate.xml").getroot()
    assert int(root.get("failures", "0")) > 0
    assert "input_layernorm" in (ran.folder / "gate.html").read_text()
    (note, *_) = json.loads((ran.folder / "code-quality.json").read_text())
    assert note["location"] == {"path": "models/llama.py", "lines": {"begin": line}}
    assert "FAILED" in (ran.folder.parent / "summary.md").read_text()


def test_a_right_port_passes(branch: Callable[[dict[str, str]], Ran]) -> None:
    text = (ROOT / "models" / "llama.py").read_text()
    ran = branch({"models/llama.py": text + "# a comment\n"})
    assert ran.code == 0, ran.log
    assert not annotations(ran.log, "error")
    assert ran.report["passed"]
    assert ran.report["change"]["ports"] == ["llama"]


@pytest.mark.slow
def test_a_change_of_what_judges_is_named_and_judges_nothing(branch: Callable[[dict[str, str]], Ran]) -> None:
    text = (ROOT / "models" / "llama.py").read_text()
    ran = branch(
        {
            "models/llama.py": text.replace(*WRONG),
            "verifiers/last.py": EXTRA.replace("1e-10", "1e9"),
            "ci/gate.sh": "#!/bin/sh\nexit 0\n",
        }
    )
    assert ran.code == 1, ran.log  # the gate is that of the branch which it goes into
    warned = "\n".join(annotations(ran.log, "warning"))
    assert "file=verifiers/last.py,line=2,title=a limit is loosened" in warned
    assert "takes last <= 1e+09, before 1e-10" in warned
    assert "touches the gate itself: ci/gate.sh is changed" in warned
    assert "this change loosens the gate" in (ran.folder / "gate.html").read_text()


def test_a_change_of_no_port_runs_none(branch: Callable[[dict[str, str]], Ran]) -> None:
    ran = branch({"README.md": "another\n"})
    assert ran.code == 0, ran.log
    assert ran.report["ports"] == []
    assert "ports touched: none" in ran.log


def test_a_ports_words_are_no_commands_to_the_ci(tmp_path: Path) -> None:
    words = "x\n::add-mask::y\r##[error]z %0A, a:b"
    note = {"severity": "error", "file": "models/a,b.py", "line": 1, "text": words, "title": words}
    port = {
        "name": "a",
        "passed": False,
        "cases": 1,
        "refused": [words],
        "not_run": [],
        "remarks": [],
        "notes": [note],
        "words": [words],
    }
    report = {
        "passed": False,
        "ports": [port],
        "tokenizers": [],
        "failures": [],
        "not_enforced": [],
        "notes": [note],
    }
    (tmp_path / "gate.json").write_text(json.dumps(report))
    environment = os.environ | {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    command = [sys.executable, str(ROOT / "ci" / "summary.py"), str(tmp_path)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    (line,) = ran.stdout.splitlines()
    place = "file=models/a%2Cb.py,line=1,title=x%0A%3A%3Aadd-mask%3A%3Ay%0D##[error]z %250A%2C a%3Ab"
    assert line == f"::error {place}::x%0A::add-mask::y%0D##[error]z %250A, a:b"


@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_init_puts_the_gate_into_a_workspace(system: str, tmp_path: Path) -> None:
    root = scaffold.init(tmp_path / "new", size=50, ci_system=system)
    assert (root / PLACES[system]).read_bytes() == (ROOT / "ci" / f"{system}.yml").read_bytes()
    assert os.access(root / "ci" / "gate.sh", os.X_OK)
    with Repo(root) as repository:
        assert not repository.is_dirty(untracked_files=True)
    assert ci.add(root, system)  # once more: nothing to change
    (root / "ci" / "summary.py").write_text("mine\n")
    with pytest.raises(PtwError, match=r"summary.py: it is there already"):
        ci.add(root, system)
    assert (root / "ci" / "summary.py").read_text() == "mine\n"


def test_init_adds_the_gate_to_the_workspace_that_one_is_in(tmp_path: Path) -> None:
    root = scaffold.init(tmp_path / "old", size=50)
    (root / "deep").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ptw", "init", "--ci", "gitlab"]
    ran = subprocess.run(
        command, cwd=root / "deep", env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert set(ran.stdout.split()) == {
        str(root / name) for name in ("ci/gate.sh", "ci/summary.py", ".gitlab-ci.yml")
    }
    ran = subprocess.run(command[:-2], cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 2


def test_this_repository_runs_the_same_workflow() -> None:
    lines = (ROOT / "ci" / "github.yml").read_text().splitlines()
    own = (ROOT / ".github" / "workflows" / "gate.yml").read_text().splitlines()
    assert len(lines) == len(own)
    differ = [new for old, new in zip(lines, own, strict=True) if old != new]
    assert differ[1:] == ["  PTW_PACKAGE: -e ."]
    assert differ[0].startswith("#")


@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_what_a_ci_reads_is_yaml_and_keeps_the_page(system: str) -> None:
    values = yaml.safe_load((ROOT / "ci" / f"{system}.yml").read_text())
    text = (ROOT / "ci" / f"{system}.yml").read_text()
    for words in ("gate.sh", "git archive", ".ptw/verify", "PTW_CHANGED_SINCE"):
        assert words in text
    if system == "gitlab":
        artifacts = values["gate"]["artifacts"]
        assert artifacts["when"] == "always"
        assert artifacts["reports"] == {"junit": "gate/gate.xml", "codequality": "gate/code-quality.json"}
    else:
        (last, upload) = values["jobs"]["gate"]["steps"][-2:]
        assert (upload["if"], upload["with"]["path"]) == ("always()", "gate/")
        assert values["permissions"] == {"contents": "read"}
        assert "${{" not in last["run"]  # nothing that a branch's name says is run


def test_scripts_parse() -> None:
    shell = shutil.which("sh")
    assert shell
    subprocess.run([shell, "-n", str(rooms.stock("ci") / "gate.sh")], check=True)
    for system, file in (("github", "github.yml"), ("gitlab", "gitlab.yml")):
        values = yaml.safe_load((ROOT / "ci" / file).read_text())
        jobs = (
            values["jobs"]["gate"]["steps"]
            if system == "github"
            else [{"run": "\n".join(values["gate"]["script"])}]
        )
        for one in jobs:
            if "run" in one:
                subprocess.run(["bash", "-n", "-c", one["run"]], check=True)
