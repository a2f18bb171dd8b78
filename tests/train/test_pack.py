"""What is sent to a cluster, and how a run's folder is seen in its storage while it grows."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptw.errors import PtwError
from ptw.files import store as storing
from ptw.files.store import Store
from ptw.runs import record
from ptw.train import checkpoint
from ptw.train.jobs import pack as packing
from ptw.train.jobs.pack import pack
from ptw.train.jobs.place import Mirror, bring
from ptw.train.jobs.train import train
from ptw.train.plan import resolve
from ptw.workspace.check import problems
from ptw.workspace.manifest import read
from tests.train.conftest import planned, trained, with_codes


@pytest.fixture
def tracked(root: Path) -> Path:
    """A repository that ignores its data, as many do, with secrets beside it."""
    (root / ".gitignore").write_text("data/\nruns/\n")
    (root / "notes.md").write_text("tracked")
    (root / "large.bin").write_text("not tracked")
    (root / "keys").mkdir()
    for name in (".env", "keys/server.pem"):
        (root / name).write_text("secret")
    (root / "runs" / "next-001").mkdir(parents=True)
    for command in (["init", "-q"], ["add", "-f", "."], ["rm", "-q", "--cached", "-r", "large.bin", "data"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def test_what_the_plan_needs_is_sent_and_no_secret(tracked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    secrets = pack(resolve(read(tracked), "next", {}), folder)
    sent = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert sent == {
        "workspace.toml",
        "notes.md",
        "recipes/slow.py",
        "data/items.jsonl",
        "data/views.jsonl",  # ignored by git, and needed
    }
    assert secrets == [".env", "keys/server.pem"]


def test_the_parts_of_a_mix_are_sent(tracked: Path, tmp_path: Path) -> None:
    pack(resolve(read(tracked), "mixed", {}), tmp_path / "packed")
    for file in ("data/chats.jsonl", "data/texts.jsonl"):
        assert (tmp_path / "packed" / file).is_file()


def test_semantic_ids_are_sent_with_the_texts_of_their_items(root: Path, tmp_path: Path) -> None:
    text = (root / "workspace.toml").read_text()
    codes = '[semantic_ids.coded]\nitems = "data/items.jsonl"\n[tokenizers.words]\nsemantic_ids = "coded"\n'
    (root / "workspace.toml").write_text(text.replace("[tokenizers.words]\n", codes))
    with_codes(root, "coded", [[0], [1]], items=["item0", "item1"], size=2, file="data/items.jsonl")
    pack(resolve(read(root), "chat", {}), tmp_path / "packed")
    for file in ("semantic_ids/coded/0001/items.parquet", "data/items.jsonl"):
        assert (tmp_path / "packed" / file).is_file()


def test_a_stock_recipe_is_sent_too(root: Path, tmp_path: Path) -> None:
    pack(resolve(read(root), "chat", {}), tmp_path / "packed")
    assert (tmp_path / "packed" / "recipes" / "sft.py").is_file()


def test_too_much_names_the_largest(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MOST_BYTES", 1000)
    with pytest.raises(PtwError, match=r"the largest:\n  0 MiB  data/views.jsonl"):
        pack(resolve(read(root), "next", {}), tmp_path / "packed")


def test_what_lies_outside_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"id": "item1"}\n')
    plan = resolve(read(root), "next", {})
    plan = dataclasses.replace(plan, tokenizer=dataclasses.replace(plan.tokenizer, items="../items.jsonl"))
    with pytest.raises(PtwError, match=r"tokenizers.items: .* lies outside the workspace"):
        pack(plan, tmp_path / "packed")


def test_a_run_goes_on_from_what_its_storage_has(root: Path, tmp_path: Path, undisturbed: Path) -> None:
    """Sent as it grows; a second folder, made of the storage alone, has all that going on takes."""
    plan = planned(root)
    store = Store(str(tmp_path / "storage"))
    mirror = Mirror(plan.run_folder(), store)
    seen: set[str] = set()

    def look() -> bool:
        mirror.send()
        seen.update(store.names())
        return len(list((plan.run_folder() / "checkpoints").glob("step-*/complete.json"))) >= 2

    trained(plan, look)
    mirror.send()
    assert {record.FILE, record.METRICS, record.EVENTS, "samples-0.jsonl"} <= seen
    kept = {path.name for path in checkpoint.complete(plan.run_folder())}
    assert {name.split("/")[1] for name in store.names("checkpoints")} == kept, "old ones go"
    there = planned(root)
    bring(store, there.run_folder(), [name for name in store.names() if name != record.FILE])
    found = trained(there)
    assert found.state == "done"
    metrics = (there.run_folder() / record.METRICS).read_text().splitlines()
    theirs = (undisturbed / record.METRICS).read_text().splitlines()
    assert [json.loads(line)["loss"] for line in metrics] == [json.loads(line)["loss"] for line in theirs]


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def call() -> str:
        if left:
            raise left.pop()
        return "found"

    return call


@pytest.mark.parametrize(("times", "passes"), [(0, True), (3, True), (4, False)])
def test_a_fault_of_the_store_is_tried_again_and_then_said(tmp_path: Path, times: int, passes: bool) -> None:
    store = Store(str(tmp_path), waits_seconds=(0.0, 0.0, 0.0))
    if passes:
        assert store._tried("read", failing(times, TimeoutError("slow"))) == "found"
        return
    with pytest.raises(PtwError, match=r"storage .*: can't be read \(TimeoutError: slow\); check address"):
        store._tried("read", failing(times, TimeoutError("slow")))


def test_what_no_other_try_mends_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing.time, "sleep", lambda _: pytest.fail("it waited"))
    with pytest.raises(PtwError, match="PermissionError"):
        Store(str(tmp_path))._tried("written", failing(1, PermissionError("no")))


def declared(root: Path, **cluster: Any) -> Path:
    values = "".join(f'{key} = "{value}"\n' for key, value in cluster.items())
    text = (root / "workspace.toml").read_text()
    (root / "workspace.toml").write_text(f"{text}\n[clusters.gpus]\n{values}")
    return root


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"address": "http://head:8265"}, "nothing says where they are fetched from"),
        ({"address": "http://head:8265", "storage": "runs"}, "not the same on all machines"),
        ({"address": "ray://head:10001", "storage": "/shared"}, "only a cluster of jobs has it"),
        ({"folder": "/shared"}, "only a cluster of jobs has it"),
        ({"address": "http://head:8265", "storage": "s3://bucket/ptw", "folder": "/shared"}, None),
    ],
)
def test_what_a_cluster_of_jobs_needs_is_said(
    root: Path, cluster: dict[str, str], message: str | None
) -> None:
    found = [str(problem) for problem in problems(declared(root, **cluster))]
    assert (not found) if message is None else message in "\n".join(found)


def test_who_takes_no_jobs_is_said(root: Path) -> None:
    with pytest.raises(PtwError, match="recipe next names no cluster that takes jobs"):
        train(read(root), "next", {}, resume=False, detach=True)
    assert not (root / "runs").exists()
