"""A run on Ray is hard to kill: its worker, its driver, Ctrl-C; and what keeps it from starting is said."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ptw.errors import PtwError
from ptw.runs import lines, record
from ptw.train import checkpoint, launch
from ptw.workspace.manifest import read
from tests.processes import is_gone
from tests.train.conftest import (
    PATIENCE_SECONDS,
    curve_of,
    environment,
    processes_of,
    samples_of,
    steps_of,
    until,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data warns of its own defaults
RUN = Path("runs") / "next-001"
SLOWLY = {"sleep": "0.05"}

# behind the slow recipe: its worker is killed in the middle of a save, in its first life
DIES = """
import signal
from pathlib import Path
import torch
from ptw.train import checkpoint

def dying(real, marker):
    def call(*arguments):
        saving = any("step-00000015" in str(each) for each in arguments if isinstance(each, Path))
        if saving and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return call

def train(run, settings):
    {moment} = dying({moment}, Path(run.plan.run_folder()) / "died")
    train_undisturbed(run, settings)
"""


def driver(root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ptw", "train", "next", *arguments]
    return subprocess.Popen(
        command,
        cwd=root,
        env=environment(SLEEP="0.3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_undisturbed(folder: Path, undisturbed: Path) -> None:
    """Bit for bit the same losses, and no sample lost or doubled."""
    assert record.read(folder).state == "done"
    assert curve_of(folder) == curve_of(undisturbed)
    assert samples_of(folder) == samples_of(undisturbed)


def kill_worker(root: Path, step: int) -> None:
    def kill() -> None:
        until(step, root / RUN)
        os.kill(processes_of(root / RUN)[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    launch.train(read(root), "next", SLOWLY, resume=False)
    killer.join()
    events = lines.read(root / RUN / record.EVENTS)[0]
    assert sum("processes" in event for event in events) == 2


def kill_driver(root: Path, step: int) -> None:
    process = driver(root)
    until(step, root / RUN)
    workers = processes_of(root / RUN)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while not all(is_gone(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(is_gone(worker) for worker in workers), "Ray outlived its driver"
    # a process counts as gone when its first thread is; its locks go with its last
    while record.read(root / RUN).state == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert record.read(root / RUN).state == "stopped"
    launch.train(read(root), "next", {}, resume=True)


def test_a_killed_worker_is_started_again(ray: None, root: Path, undisturbed: Path) -> None:
    kill_worker(root, 13)
    assert_undisturbed(root / RUN, undisturbed)


@pytest.mark.slow  # a killed worker and Ctrl-C are asked always
def test_a_killed_driver_is_resumed(ray: None, root: Path, undisturbed: Path) -> None:
    kill_driver(root, 8)
    assert_undisturbed(root / RUN, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_worker_may_be_killed_at_any_step(ray: None, root: Path, undisturbed: Path, seed: int) -> None:
    kill_worker(root, random.Random(seed).randint(1, 26))
    assert_undisturbed(root / RUN, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_driver_may_be_killed_at_any_step(ray: None, root: Path, undisturbed: Path, seed: int) -> None:
    kill_driver(root, random.Random(seed).randint(1, 26))
    assert_undisturbed(root / RUN, undisturbed)


@pytest.mark.slow
def test_a_killed_one_of_two_workers_is_started_again(ray: None, root: Path, undisturbed: Path) -> None:
    folder = root / "runs" / "next-on-two-001"

    def kill() -> None:
        until(13, folder)
        os.kill(processes_of(folder)[1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    launch.train(read(root), "next-on-two", SLOWLY, resume=False)
    killer.join()
    losses = [line["loss"] for line in steps_of(folder)]
    assert losses == pytest.approx([line["loss"] for line in steps_of(undisturbed)], rel=1e-5)
    assert samples_of(folder) == samples_of(undisturbed)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(ray: None, root: Path, undisturbed: Path) -> None:
    process = driver(root)
    until(7, root / RUN)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, err
    assert "ptw train next --resume" in err
    assert "Traceback" not in err
    assert out == ""
    assert record.read(root / RUN).state == "stopped"
    launch.train(read(root), "next", {}, resume=True)
    assert_undisturbed(root / RUN, undisturbed)


@pytest.mark.slow
def test_a_worker_told_to_go_saves_first(ray: None, root: Path, undisturbed: Path) -> None:
    """SIGTERM is how a machine is taken back: another worker goes on from the very step."""

    def tell() -> None:
        until(8, root / RUN)
        os.kill(processes_of(root / RUN)[0], signal.SIGTERM)

    teller = threading.Thread(target=tell)
    teller.start()
    launch.train(read(root), "next", SLOWLY, resume=False)
    teller.join()
    events = lines.read(root / RUN / record.EVENTS)[0]
    starts = [event["start"][1] for event in events if "start" in event]
    assert len(starts) == 2
    assert starts[1] >= 8, "it went on from a checkpoint of its own, not from the one every 5 steps"
    assert starts[1] % 5, "the signal came in a step that saves anyhow"
    assert any("is told to go; a checkpoint is saved" in event["text"] for event in events)
    assert_undisturbed(root / RUN, undisturbed)


@pytest.mark.slow  # what differs from Ctrl-C is the signal
def test_sigterm_to_the_driver_saves(ray: None, root: Path, undisturbed: Path) -> None:
    process = driver(root)
    until(7, root / RUN)
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, err
    found = record.read(root / RUN)
    assert found.state == "stopped"
    assert checkpoint.step_of(checkpoint.complete(found.folder)[-1]) == len(steps_of(found.folder))
    launch.train(read(root), "next", {}, resume=True)
    assert_undisturbed(root / RUN, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["torch.save", "checkpoint.write_json"])
def test_a_worker_killed_while_it_saves_is_started_again(
    ray: None, root: Path, undisturbed: Path, moment: str
) -> None:
    """After the tensors and before the rest, or with all but the seal written, at step 15."""
    recipe = root / "recipes" / "slow.py"
    slow = recipe.read_text().replace("def train(", "def train_undisturbed(")
    recipe.write_text(slow + DIES.format(moment=moment))
    launch.train(read(root), "next", {}, resume=False)
    events = lines.read(root / RUN / record.EVENTS)[0]
    assert [event["start"][1] for event in events if "start" in event] == [0, 10]
    assert not list((root / RUN / record.CHECKPOINTS).glob(".saving-*"))
    assert_undisturbed(root / RUN, undisturbed)


def test_a_changed_file_is_said_on_resume(root: Path) -> None:
    workspace = read(root)
    found = launch._new(workspace, "next", {"steps": "9"})
    text = (root / "workspace.toml").read_text().replace("window = 32", "window = 48")
    (root / "workspace.toml").write_text(text)
    with (root / "data" / "views.jsonl").open("a") as file:
        file.write('{"items": ["item1", "item2", "item3"]}\n')
    with pytest.raises(PtwError) as caught:
        launch.train(read(root), "next", {}, resume=True)
    assert "settings.window: 32 -> 48" in str(caught.value)
    assert "the content of dataset views" in str(caught.value)
    assert "steps" not in str(caught.value)  # what --set said is remembered
    assert record.read(found.folder).state == "running"


def test_a_run_may_go_on_with_fewer_checkpoints_kept(root: Path) -> None:
    """As one must whose disk is full; which stay changes no number."""
    launch._new(read(root), "next", {"keep_checkpoints": "9"})
    found = launch.begun(read(root), "next", {"keep_checkpoints": "1"}, resume=True)
    assert found.settings["keep_checkpoints"] == 1


def test_nothing_to_resume_is_said(root: Path) -> None:
    with pytest.raises(PtwError, match="it has no run; start one without --resume"):
        launch.train(read(root), "next", {}, resume=True)


def test_an_unreachable_cluster_is_said_at_once(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, and nobody listens
        text = (root / "workspace.toml").read_text().replace("workers = 2", f'address = "{address}"')
        (root / "workspace.toml").write_text(text)
        began = time.monotonic()
        script = (
            "import sys; from pathlib import Path; from ptw.workspace.manifest import read\n"
            "from ptw.train import launch; from ptw.errors import PtwError\n"
            "try: launch.train(read(Path.cwd()), 'next-on-two', {}, False)\n"
            "except PtwError as error: sys.exit(str(error))"
        )
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, cwd=root, env=environment(), capture_output=True, text=True, timeout=100
        )
    assert f"no Ray cluster answers at {address}" in done.stderr
    assert "leave it out to train on this machine" in done.stderr
    assert time.monotonic() - began < 90
    assert record.open_run(root, "next-on-two").state == "failed"


def test_more_workers_than_there_is_room_for_are_refused(ray: None, root: Path) -> None:
    text = (root / "workspace.toml").read_text().replace("workers = 2", "workers = 5\ngpus_per_worker = 1")
    (root / "workspace.toml").write_text(text)
    with pytest.raises(PtwError, match="5 workers need 5 CPUs, and Ray has 2"):
        launch.train(read(root), "next-on-two", {}, resume=False)


@pytest.mark.slow
def test_a_fault_in_the_data_ends_the_run_and_is_said(ray: None, root: Path) -> None:
    with (root / "data" / "views.jsonl").open("a") as file:
        file.write('{"items": ["item1", "nobody", "item3", "item4"]}\n')
    with pytest.raises(PtwError, match=r"views.jsonl:41: item 'nobody' is not in tokenizer items"):
        launch.train(read(root), "next", {}, resume=False)
    assert record.read(root / RUN).state == "failed"
