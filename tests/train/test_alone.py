"""One worker on this machine trains without Ray; it comes back when it is lost, and its faults are told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ptw.runs import lines, record
from ptw.train import alone
from tests.processes import is_gone
from tests.train.conftest import (
    PATIENCE_SECONDS,
    curve_of,
    environment,
    planned,
    processes_of,
    samples_of,
    until,
)

RUN = Path("runs") / "next-001"


def started(root: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ptw", "train", "next", *arguments],
        cwd=root,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_killed_worker_is_started_again_without_ray(root: Path, undisturbed: Path) -> None:
    process = started(root, SLEEP="0.05")
    until(13, root / RUN)
    (worker,) = processes_of(root / RUN)
    assert parent_of(worker) == process.pid
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    starts = [event["start"][1] for event in lines.read(root / RUN / record.EVENTS)[0] if "start" in event]
    assert starts == [0, 10]
    assert curve_of(root / RUN) == curve_of(undisturbed)
    assert samples_of(root / RUN) == samples_of(undisturbed)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it_at_once(root: Path) -> None:
    process = started(root, SLEEP="30")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (root / RUN / record.EVENTS).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    (worker,) = processes_of(root / RUN)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # it waits for the step
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)
    assert process.returncode == 130
    deadline = time.monotonic() + 5
    while not is_gone(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_gone(worker)


@pytest.mark.slow
def test_a_worker_told_to_go_saves_and_another_goes_on(root: Path, undisturbed: Path) -> None:
    process = started(root, SLEEP="0.05")
    until(8, root / RUN)
    os.kill(processes_of(root / RUN)[0], signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
    events = lines.read(root / RUN / record.EVENTS)[0]
    starts = [event["start"][1] for event in events if "start" in event]
    assert len(starts) == 2
    assert starts[1] >= 8
    assert any("is told to go; a checkpoint is saved" in event["text"] for event in events)
    assert curve_of(root / RUN) == curve_of(undisturbed)


def test_what_a_recipe_prints_stands_in_the_log_and_its_fault_is_told(root: Path) -> None:
    recipe = root / "recipes" / "slow.py"
    recipe.write_text(recipe.read_text().replace("    run.save(model)", "    print('so far')\n    run.sve()"))
    process = started(root, "--set", "steps=1")
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert "recipes/slow.py" in err
    assert "run.sve" in err or "'sve'" in err
    assert "so far" in (root / RUN / alone.LOG).read_text()
    assert record.read(root / RUN).state == "failed"


def test_a_worker_that_never_comes_to_train_is_given_up_with_its_last_words(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(root)
    record.change(plan.run_folder(), state="running")
    monkeypatch.setattr(sys, "executable", str(fails := root / "python"))
    fails.write_text("#!/bin/sh\necho the disk is gone\nexit 3\n")
    fails.chmod(0o755)
    outcome: list[Exception] = []
    alone.Alone().fit(plan, outcome)
    fails.unlink()
    alone.Alone().fit(plan, outcome)
    often, gone = map(str, outcome)
    assert "ended 3 times before it trained (status 3): the disk is gone / the disk is gone" in often
    assert "cannot be started" in gone
    assert "No such file" in gone


def test_who_needs_ray_has_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert alone.suffices(planned(root))
    assert not alone.suffices(planned(root, "next-on-two"))
    recipe = root / "recipes" / "slow.py"
    recipe.write_text(recipe.read_text().replace("    steps: int", "    needs_ray = True\n    steps: int"))
    assert not alone.suffices(planned(root))
