"""The stock rooms are found from a wheel, from an editable install and from a clone alike."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOMS = ("models", "recipes", "verifiers")
LIST_ROOMS = """
from ptw.workspace.rooms import files, stock
for room in {rooms}:
    print(stock(room), *sorted(files(None, room)))
"""
WORKSPACE = '[workspace]\nname = "elsewhere"\n\n[models.small]\nconfig = { model_type = "llama" }\n'


@dataclass(frozen=True)
class Install:
    python: Path
    folder: Path  # where the install is used: no source of ptw lies here
    search: str  # PYTHONPATH

    def run(self, *arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": self.search}
        command = [str(self.python), *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(params=["wheel", "editable", "clone"])
def install(request: pytest.FixtureRequest, wheel: Path, repository: Path, tmp_path: Path) -> Install:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "workspace.toml").write_text(WORKSPACE, encoding="utf-8")
    python = new_environment(tmp_path / "environment")
    if request.param == "clone":
        clone = copy_of(repository, tmp_path / "clone")
        return Install(python, elsewhere, str(clone))
    source = [str(wheel)] if request.param == "wheel" else ["--no-build-isolation", "-e", str(repository)]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--no-index", "--no-deps"]
    subprocess.run([*pip, *source], check=True, capture_output=True)
    assert (python.parent / "ptw").is_file(), "the command was not installed"
    return Install(python, elsewhere, "")


def new_environment(folder: Path) -> Path:
    """An environment that sees the third parties of this one, and no ptw."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    # the .pth files in that path are not read again: no editable ptw comes along
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "third_parties.pth").write_text(sysconfig.get_path("purelib"))
    return python


def copy_of(repository: Path, clone: Path) -> Path:
    """What a clone would hold, were the working tree committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if (repository / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, clone / name)
    return clone


def test_the_stock_rooms_are_found(install: Install, repository: Path) -> None:
    listed = install.run("-c", LIST_ROOMS.format(rooms=ROOMS)).splitlines()
    for room, line in zip(ROOMS, listed, strict=True):
        assert set(line.split()[1:]) == {path.stem for path in (repository / room).glob("*.py")}


def test_a_workspace_elsewhere_is_checked(install: Install) -> None:
    install.run("-m", "ptw", "check")


def test_the_wheel_holds_the_rooms_and_the_schema(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    rooms = {f"ptw/_stock/{room}/{p.name}" for room in ROOMS for p in (repository / room).glob("*.py")}
    gate = {f"ptw/_stock/ci/{path.name}" for path in (repository / "ci").iterdir() if path.is_file()}
    data = {"ptw/workspace/schema.json", "ptw/py.typed"}
    data |= {path.relative_to(repository).as_posix() for path in (repository / "ptw").rglob("*.jinja")}
    data |= {"ptw/pages/style.css", "ptw/pages/hover.js"}
    assert rooms | gate | data <= names
    assert not [name for name in names if "tests" in name or "__pycache__" in name]
