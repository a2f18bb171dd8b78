"""A run's folder: numbers without races, lines that survive a crash, and who is at work."""

import io
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from ptw.errors import PtwError
from ptw.runs import lines, lock, record, report
from ptw.runs.origin import commit_of

PLAN = {
    "settings": {"steps": 3},
    "file": "recipes/sft.py",
    "model": {"name": "m"},
    "tokenizer": {"name": "t"},
}


def create(root: Path) -> str:
    return record.create(root, "chat", plan=PLAN).name


def test_two_at_once_get_two_numbers(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        names = pool.map(create, [tmp_path] * 12)
    assert sorted(names) == [f"chat-{number:03d}" for number in range(1, 13)]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == set(names)


def test_a_recipe_whose_name_ends_in_a_number_keeps_its_own_numbers(tmp_path: Path) -> None:
    assert record.create(tmp_path, "sft", plan=PLAN).name == "sft-001"
    assert record.create(tmp_path, "sft-001", plan=PLAN).name == "sft-001-001"
    assert record.create(tmp_path, "sft", plan=PLAN).name == "sft-002"


def test_what_is_changed_is_read_again(tmp_path: Path) -> None:
    found = record.create(tmp_path, "chat", plan=PLAN, digests={"dataset d": "abc"})
    record.change(found.folder, state="failed", message="why")
    again = record.open_run(tmp_path, "chat")
    assert (again.state, again.message, again.digests) == ("failed", "why", {"dataset d": "abc"})
    assert again.finished
    assert json.loads((found.folder / "run.json").read_text())["recipe"] == "chat"


def test_an_unknown_run_names_the_known(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(PtwError, match="no run named 'x'; there are: chat-001"):
        record.open_run(tmp_path, "x")


def test_a_broken_record_is_said(tmp_path: Path) -> None:
    folder = record.create(tmp_path, "chat", plan=PLAN).folder
    (folder / "run.json").write_text("{")
    with pytest.raises(PtwError, match=r"run\.json: not a run's record"):
        record.list_runs(tmp_path)


def test_only_one_driver_works_on_a_run_and_a_killed_one_is_seen(tmp_path: Path) -> None:
    folder = record.create(tmp_path, "chat", plan=PLAN).folder
    ready_out, ready_in = os.pipe()
    child = os.fork()
    if child == 0:
        with lock.held(folder, "driver"):
            os.write(ready_in, b"1")
            signal.pause()
    os.read(ready_out, 1)
    try:
        assert record.read(folder).state == "running"
        with (
            pytest.raises(PtwError, match="another process trains this run"),
            lock.held(folder, "driver", 0.1),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready_out)
        os.close(ready_in)
    assert record.read(folder).state == "stopped"
    with lock.held(folder, "driver"):
        pass


def test_a_torn_line_is_waited_for_and_then_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines.append(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": ')
    found, end = lines.read(path)
    assert found == [{"step": 1}]
    with path.open("a") as file:
        file.write("2}\n")
    assert lines.read(path, end)[0] == [{"step": 2}]
    lines.keep(path, lambda line: line["step"] < 2)
    assert path.read_text() == '{"step": 1}\n'


def test_a_folder_without_git_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == (None, None)


def test_a_commit_and_changes_are_seen(tmp_path: Path) -> None:
    import git

    with git.Repo.init(tmp_path) as repository:
        (tmp_path / "a").write_text("1")
        repository.index.add(["a"])
        author = git.Actor("a", "a@b")
        commit = repository.index.commit("first", author=author, committer=author)
        assert commit_of(tmp_path) == (commit.hexsha, False)
        create(tmp_path)
        assert commit_of(tmp_path) == (commit.hexsha, False)  # what ptw writes makes nothing dirty
        (tmp_path / "recipe.py").write_text("new")
        assert commit_of(tmp_path) == (commit.hexsha, True)


def test_a_curve_falls_from_left_to_right() -> None:
    drawn = report.curve([(1, 4.0), (2, 3.0), (3, 2.0)], width=6, height=3).splitlines()
    assert drawn[0].startswith("4 │")
    assert drawn[2].startswith("2 │")
    assert drawn[0].rstrip().endswith(chr(0x2801))
    assert drawn[-1].split() == ["1", "3"]


def test_runs_are_shown(tmp_path: Path) -> None:
    found = record.create(tmp_path, "chat", plan=PLAN)
    for step in (1, 2):
        lines.append(found.folder / "metrics.jsonl", {"kind": "train", "step": step, "loss": 3.0 / step})
    console = Console(width=120, file=io.StringIO())
    console.print(report.table(record.list_runs(tmp_path)), report.show(found))
    text = console.file.getvalue()
    assert "chat-001" in text
    assert "1.5000" in text
    assert "loss by step" in text
