"""The commands: what they print where, their exit codes, and how fast they answer."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import click
import pytest
from git import Repo

from ptw import cli
from ptw.cli import training
from ptw.errors import PtwError
from ptw.workspace.manifest import read
from ptw.workspace.simulate import MEMBERS, write_service

HEAVY = ("torch", "transformers", "tokenizers", "ray", "git", "pyarrow", "rich", "numpy")
FILES = {
    *(".gitignore", ".ptw/schema.json", "README.md", "workspace.toml"),
    *(f"data/{name}.jsonl" for name in ("items", "viewings", "chats", "chats-held-out")),
    *(f"{room}/README.md" for room in ("models", "recipes", "verifiers")),
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that `ptw init` made; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("init")
    made = ptw(folder, "init", "catalogue", "--size", "60", "--seed", "1")
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == str(folder / "catalogue")
    assert [path.name for path in folder.iterdir()] == ["catalogue"]
    return folder / "catalogue"


def ptw(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ptw", *arguments]
    variables = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])} | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60)


def test_a_new_workspace_tells_of_its_datasets(catalogue: Path) -> None:
    """Also where a recipe that names one waits for a vocabulary."""
    said = ptw(catalogue, "data")
    assert said.returncode == 0, said.stderr
    assert [line.split()[0] for line in said.stdout.splitlines()] == [
        "dataset",
        *read(catalogue).datasets,
    ]
    assert ptw(catalogue, "data", "viewings").returncode == 0


def test_help_lists_the_commands_as_a_user_meets_them() -> None:
    assert list(cli.cli.commands) == (
        [
            "init",
            "check",
            "schema",
            "add-model",
            "verify",
            "data",
            "vocab",
            "train",
            "runs",
            "export",
            "generate",
            "recommend",
            "eval",
            "eject",
        ]
    )
    context = click.Context(cli.cli)
    assert cli.cli.list_commands(context) == list(cli.cli.commands)
    for command in cli.cli.commands.values():
        assert command.help
        assert not command.get_short_help_str(limit=66).endswith("...")


def test_init_makes_a_workspace_that_check_passes(catalogue: Path) -> None:
    repository = Repo(catalogue)
    assert not repository.is_dirty(untracked_files=True)
    assert {str(entry.path) for entry in repository.tree().traverse() if entry.type == "blob"} == FILES
    assert (catalogue / "workspace.toml").read_text().splitlines()[0] == "#:schema ./.ptw/schema.json"
    assert (catalogue / ".ptw/schema.json").read_text() == ptw(catalogue, "schema").stdout
    checked = ptw(catalogue / "data", "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith("workspace.toml: nothing is wrong with it")
    assert json.loads(ptw(catalogue, "check", "--json").stdout) == {"passed": True, "problems": []}


def test_init_simulates_as_many_members_as_it_says() -> None:
    assert {option.name: option.default for option in cli.init.params}["size"] == MEMBERS


def test_init_takes_size_and_seed(catalogue: Path, tmp_path: Path) -> None:
    write_service(tmp_path, 60, 1)
    for file in tmp_path.iterdir():
        assert (catalogue / "data" / file.name).read_bytes() == file.read_bytes()


def test_init_leaves_a_folder_that_is_not_empty_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, words in (
        ("full", "not empty"),
        ("file", "not a folder"),
        ("a b", "a name"),
        ("no/where", "no such"),
    ):
        made = ptw(tmp_path, "init", name)
        assert (made.returncode, made.stdout) == (1, "")
        assert words in made.stderr
        assert "Traceback" not in made.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]


def test_init_takes_a_folder_that_is_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert ptw(tmp_path, "init", "empty", "--size", "50").returncode == 0
    assert (tmp_path / "empty" / "workspace.toml").is_file()


def test_init_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptw.workspace import scaffold

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scaffold, "write_service", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scaffold.init(tmp_path / "one")
    monkeypatch.setattr(scaffold, "write_service", full)
    with pytest.raises(PtwError, match="No space left"):
        scaffold.init(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


def test_init_inside_a_hook_makes_a_repository_of_its_own(tmp_path: Path) -> None:
    outer = Repo.init(tmp_path / "outer")
    made = ptw(tmp_path, "init", "inner", "--size", "50", GIT_DIR=str(outer.git_dir), GIT_INDEX_FILE="index")
    assert made.returncode == 0, made.stderr
    assert len(list(Repo(tmp_path / "inner").iter_commits())) == 1
    assert not outer.head.is_valid()


def test_check_prints_every_problem_and_fails(catalogue: Path, tmp_path: Path) -> None:
    text = (catalogue / "workspace.toml").read_text().replace('name = "catalogue"', "name = 3")
    (tmp_path / "workspace.toml").write_text(text.replace("format = ", "fromat = ", 1))
    checked = ptw(tmp_path, "check")
    assert checked.returncode == 1
    lines = checked.stdout.splitlines()
    assert any("workspace.name = 3: wrong type; it must be a string" in line for line in lines)
    assert any("did you mean 'format'?" in line for line in lines)
    assert f"problems in workspace.toml: {len(lines)}" in checked.stderr
    found = json.loads(ptw(tmp_path, "check", "--json").stdout)
    assert [set(problem) for problem in found["problems"]] == [
        {"file", "line", "key", "value", "message", "hint"}
    ] * len(lines)


def test_outside_a_workspace_a_command_says_how_to_make_one(tmp_path: Path) -> None:
    for command in (["check"], ["train", "x"], ["runs"], ["eject", "recipes/sft"]):
        told = ptw(tmp_path, *command)
        assert (told.returncode, told.stdout) == (1, "")
        assert "ptw init NAME" in told.stderr


def test_an_unreadable_manifest_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "workspace.toml").write_bytes(b'[workspace]\nname = "\xff"\n')
    checked = ptw(tmp_path, "check")
    assert (checked.returncode, checked.stdout) == (1, "")
    assert checked.stderr.startswith("ptw: workspace.toml:2: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["train"],
        ["train", "x", "--set", "steps"],
        ["train", "x", "--set", "=3"],
        ["export", "x"],
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: list[str]) -> None:
    told = ptw(tmp_path, *arguments)
    assert (told.returncode, told.stdout) == (2, "")
    assert "Usage: ptw" in told.stderr


def test_set_keeps_what_follows_the_first_equals_sign() -> None:
    context = click.Context(cli.train)
    assert training.as_pairs(context, cli.train.params[0], ("a=b=c", "d=")) == {"a": "b=c", "d": ""}


def test_a_bug_is_written_down_and_exits_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ptw.workspace import schema

    def broken() -> str:
        raise LookupError("the cause")

    monkeypatch.setattr(schema, "schema_text", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("PTW_DEBUG", raising=False)
    assert cli.run(["schema"]) == 3
    told = capsys.readouterr()
    [report] = tmp_path.glob("ptw-bug-*.txt")
    assert str(report) in told.err
    assert "Traceback" not in told.err
    assert "LookupError: the cause" in report.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert cli.run(["schema"]) == 3
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("PTW_DEBUG", "1")
    with pytest.raises(LookupError):
        cli.run(["schema"])


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PtwError("mend this"), 1, "ptw: mend this"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "/data/x"), 1, "/data/x: No space left on device"),
    ],
)
def test_exit_codes_say_whose_fault_it_is(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ptw.workspace import schema

    def broken() -> str:
        raise error

    monkeypatch.setattr(schema, "schema_text", broken)
    assert cli.run(["schema"]) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["check"], ["schema"], ["train", "--help"]])
def test_what_is_quick_imports_nothing_heavy(catalogue: Path, arguments: list[str]) -> None:
    program = (
        f"import sys; from ptw.cli import run; code = run({arguments!r})\n"
        f"print(code, sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, cwd=catalogue, env=environment, capture_output=True, text=True, check=True)
    assert ran.stderr.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(("arguments", "seconds"), [(["--help"], 0.3), (["check"], 0.6)])
def test_what_is_quick_answers_at_once(catalogue: Path, arguments: list[str], seconds: float) -> None:
    """In processor seconds: other tests run on the same cores."""
    taken = [processor_seconds(catalogue, arguments) for _ in range(5)]
    assert statistics.median(taken) < seconds


def processor_seconds(folder: Path, arguments: list[str]) -> float:
    before = os.times()
    assert ptw(folder, *arguments).returncode == 0
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
