"""Trackers get each step of a run once, also when it was resumed, and never stop one."""

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ptw.errors import PtwError
from ptw.runs import lines, record
from ptw.track import follow
from ptw.track.follow import tracked
from ptw.train import worker
from ptw.train.plan import resolve
from ptw.workspace.manifest import read
from tests.train.conftest import make_workspace, planned, steps_of, trained

PLAN: dict[str, Any] = {"settings": {"steps": 3}, "model": {"name": "m"}, "tokenizer": {"name": "t"}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return record.create(tmp_path, "chat", plan=PLAN, commit="c" * 40).folder


def step(folder: Path, number: int, loss: float) -> None:
    line = {"kind": "train", "step": number, "total": 9, "loss": loss, "mfu": None, "digest": "ab"}
    lines.append(folder / record.METRICS, line)


def measured(folder: Path, number: int, **values: float) -> None:
    lines.append(folder / record.METRICS, {"kind": "eval", "step": number, **values})


def told(folder: Path) -> list[str]:
    return [event["text"] for event in lines.read(folder / record.EVENTS)[0]]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """As TensorBoard shows them: a later file's start drops what earlier ones have from its step on."""
    found: list[tuple[str, int, float]] = []
    for path in sorted(folder.glob("events.out.*"), key=lambda path: path.stat().st_mtime_ns):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                found = [point for point in found if point[1] < event.step]
            numbers = [value for value in event.summary.value if value.HasField("simple_value")]
            found += [(value.tag, event.step, value.simple_value) for value in numbers]
    tags = dict.fromkeys(tag for tag, *_ in found)
    return {tag: [(step, value) for name, step, value in found if name == tag] for tag in tags}


def events(path: Path) -> Iterator[Event]:
    """TensorFlow's records: a length and its checksum, the data and its checksum."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_tensorboard_gets_each_figure_once(run: Path) -> None:
    measured(run, 0, held_out_loss=3.0)
    with tracked(run, {"tensorboard": True}):
        step(run, 1, 2.0)
        step(run, 2, 1.0)
        measured(run, 2, held_out_loss=1.5)
        measured(run, 2, **{"validation_ndcg@10": 0.5})  # another one after the same step
    assert scalars(run / "tensorboard") == {
        "eval/held_out_loss": [(0, 3.0), (2, 1.5)],
        "eval/validation_ndcg_at_10": [(2, 0.5)],
        "train/loss": [(1, 2.0), (2, 1.0)],
    }
    assert told(run) == []


def test_a_run_that_goes_on_doubles_nothing(run: Path, tmp_path: Path) -> None:
    """As resuming does it: what followed the checkpoint is cut and done again."""
    for last in (4, 7):
        with tracked(run, {"tensorboard": "boards", "wandb": False}):
            lines.keep(run / record.METRICS, lambda line: line["step"] <= 2)
            for number in range(len(lines.read(run / record.METRICS)[0]) + 1, last + 1):
                step(run, number, 1 / number)
    losses = scalars(tmp_path / "boards" / run.name)["train/loss"]
    assert losses == [(number, pytest.approx(1 / number)) for number in range(1, 8)]
    assert not (run / "tensorboard").exists()


def test_a_cut_under_the_eyes_of_a_tracker_is_seen(run: Path) -> None:
    follower = follow.Follower(run, "tensorboard", True)
    for number in (1, 2, 3):
        step(run, number, 1.0)
    follower._catch_up()
    lines.keep(run / record.METRICS, lambda line: line["step"] <= 1)
    for number in (2, 3, 4, 5):  # longer than before
        step(run, number, 1.0)
    follower.ending.set()
    follower.run()
    assert [number for number, _ in scalars(run / "tensorboard")["train/loss"]] == [1, 2, 3, 4, 5]


def test_a_tracker_that_fails_is_named_once_and_told_all_once_it_works(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.05)
    (tmp_path / "boards").write_text("in the way")
    with tracked(run, {"tensorboard": "boards"}):
        step(run, 1, 2.0)
        deadline = time.monotonic() + 10
        while not told(run) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        (tmp_path / "boards").unlink()
        step(run, 2, 1.0)
    (text,) = told(run)
    assert text.startswith("tracking, tensorboard: ")
    assert text.endswith("it is tried again")
    assert scalars(tmp_path / "boards" / run.name)["train/loss"] == [(1, 2.0), (2, 1.0)]


def test_a_tracker_that_hangs_is_left_behind(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LAST_SECONDS", 0.2)
    monkeypatch.setattr(follow.Follower, "_catch_up", lambda self: time.sleep(2))
    began = time.monotonic()
    with tracked(run, {"tensorboard": True}):
        pass
    assert time.monotonic() - began < 1.5
    assert told(run) == [
        "tracking, tensorboard: does not answer; what it was not told stands in metrics.jsonl"
    ]


def test_a_tracker_that_is_not_installed_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with tracked(run, {"wandb": "films"}):
        step(run, 1, 2.0)
    (text,) = told(run)
    assert text.endswith("pip install 'ptw[wandb]'")


def test_nothing_is_imported_that_is_not_named() -> None:
    code = "import sys, ptw.track.follow; print({'tensorboardX', 'mlflow', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_workspace_names_its_trackers_and_they_are_no_part_of_what_a_run_is_made_from(
    tmp_path: Path,
) -> None:
    root = make_workspace(tmp_path / "ws")
    toml = root / "workspace.toml"
    plain = toml.read_text()
    toml.write_text(plain + '[tracking]\ntensorboard = true\nmlflow = "http://127.0.0.1:5000"\n')
    plan = resolve(read(root), "next", {})
    assert plan.tracking == {"tensorboard": True, "mlflow": "http://127.0.0.1:5000"}
    assert "tracking" not in record.made_of(plan.as_json())
    toml.write_text(plain + '[tracking]\nwandbb = "films"\n')
    with pytest.raises(PtwError, match="did you mean 'wandb'"):
        read(root)


def test_a_worker_without_ray_is_tracked_and_goes_on(tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "ws")
    toml = root / "workspace.toml"
    toml.write_text(toml.read_text() + "[tracking]\ntensorboard = true\n")
    plan = planned(root, steps=8, checkpoint_every=3)
    folder = plan.run_folder()
    with tracked(folder, plan.tracking):
        trained(plan, lambda: len(steps_of(folder)) >= 4)
    assert record.read(folder).state == "stopped"
    assert worker.main(folder / record.FILE) == 0
    losses = scalars(folder / "tensorboard")["train/loss"]
    assert losses == [(line["step"], pytest.approx(line["loss"])) for line in steps_of(folder)]
    assert [number for number, _ in losses] == list(range(1, 9))
    assert [event for event in told(folder) if "tracking" in event] == []


@pytest.mark.slow
def test_a_server_of_mlflow_gets_a_run_in_two_parts(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow.server", reason="pip install mlflow", exc_type=ImportError)
    from mlflow import MlflowClient

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{tmp_path}/mlflow.db"
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", store]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", *options]
    server = subprocess.Popen(command, cwd=tmp_path, env=os.environ | quiet)
    try:
        _wait_for(port)
        client = MlflowClient(tracking_uri=address)
        with tracked(run, {"mlflow": address}):
            for number in (1, 2, 3):
                step(run, number, 1 / number)
        record.change(run, state="stopped")
        (run / "tracking-mlflow.json").write_text(
            json.dumps({"id": json.loads((run / "tracking-mlflow.json").read_text())["id"], "steps": {}})
        )  # as if the driver had been killed before it wrote down what was told
        with tracked(run, {"mlflow": address}):
            for number in (4, 5):
                step(run, number, 1 / number)
            record.change(run, state="done")
        experiment = client.get_experiment_by_name("chat")
        assert experiment is not None
        (there,) = client.search_runs([experiment.experiment_id])
        history = client.get_metric_history(there.info.run_id, "train/loss")
        assert sorted((m.step, m.value) for m in history) == [(n, 1 / n) for n in range(1, 6)]
        assert there.info.status == "FINISHED"
        assert there.data.params["settings.steps"] == "3"
        assert there.data.tags["mlflow.source.git.commit"] == "c" * 40
    finally:
        server.terminate()
        server.wait(20)
    assert told(run) == []


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.3)
    raise AssertionError("the server of mlflow does not answer")


@pytest.mark.slow
def test_a_folder_of_mlflow_and_a_server_that_is_not_there(run: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'ptw[mlflow]'")
    with tracked(run, {"mlflow": "tracked"}):
        step(run, 1, 2.0)
    client = mlflow.MlflowClient(tracking_uri=str(tmp_path / "tracked"))
    known = json.loads((run / "tracking-mlflow.json").read_text())
    assert client.get_run(known["id"]).data.metrics == {"train/loss": 2.0}
    (run / "tracking-mlflow.json").unlink()
    with tracked(run, {"mlflow": "http://127.0.0.1:9"}):
        step(run, 2, 1.0)
    (text,) = told(run)
    assert "127.0.0.1" in text


@pytest.mark.slow
def test_wandb_keeps_a_run_for_later(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="pip install 'ptw[wandb]'")
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for numbers in ((1, 2), (3, 4)):
        with tracked(run, {"wandb": "films"}):
            for number in numbers:
                step(run, number, 1 / number)
    points, identifiers = _of_wandb(run)
    assert points == [(number, pytest.approx(1 / number)) for number in (1, 2, 3, 4)]
    assert len(identifiers) == 1
    assert told(run) == []
    wandb.teardown()  # it reads the variables once
    monkeypatch.delenv("WANDB_MODE")
    with tracked(run, {"wandb": "films"}):
        step(run, 5, 1.0)
    assert told(run)[0].endswith("set WANDB_MODE=offline")


def _of_wandb(folder: Path) -> tuple[list[tuple[int, float]], set[str]]:
    """Steps with their losses, and run ids, of all offline files."""
    from wandb.proto.wandb_internal_pb2 import Record

    points, identifiers = [], set()
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for entry in map(Record.FromString, _records(path.read_bytes())):
            if entry.HasField("run"):
                identifiers.add(entry.run.run_id)
            items = entry.history.item
            values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
            if "train/loss" in values:
                points.append((values["_step"], values["train/loss"]))
    return points, identifiers


def _records(data: bytes, block: int = 32768, header: int = 7) -> Iterator[bytes]:
    """Of LevelDB's log: checksum, length, and whether it is whole (1) or the last part (4)."""
    at, parts = header, b""
    while at + header <= len(data):
        if block - at % block < header:
            at += block - at % block
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + header])
        parts += data[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):
            yield parts
            parts = b""
