"""A step whose loss is no number, or a spike, is named; left out, it is as if it had not been."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ptw.errors import PtwError
from ptw.runs import lines, record
from ptw.train import guard
from ptw.train.feed import Feed, StepRows
from ptw.train.group import Group
from ptw.train.guard import Guard
from ptw.train.ledger import Ledger
from ptw.train.settings import TrainingSettings
from tests.train.conftest import curve_of, planned, samples_of, steps_of, together, trained

BAD = 20  # the step, from 1, that is spoilt


def spoil(root: Path, worth: str, when: str) -> None:
    """The recipe takes another loss for one batch."""
    recipe = root / "recipes" / "slow.py"
    text = recipe.read_text().replace("batch)\n", f"batch) * ({worth} if {when} else 1)\n")
    recipe.write_text(text)


def digest_at(undisturbed: Path, step: int) -> str:
    return curve_of(undisturbed)[step - 1][2]


def faults_of(folder: Path) -> list[lines.Line]:
    return [event for event in lines.read(folder / record.EVENTS)[0] if "fault" in event]


def model_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / record.MODEL / "model.safetensors")


@pytest.fixture
def without_the_batch(root: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run whose data never held the bad step's rows."""
    next_step, bad = Feed.next_step, digest_at(undisturbed, BAD)

    def skipping(feed: Feed) -> StepRows | None:
        step = next_step(feed)
        return next_step(feed) if step is not None and step.digest == bad else step

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "next_step", skipping)
        return trained(planned(root)).folder


@pytest.mark.parametrize(
    ("worth", "heed", "kind"),
    [("float('nan')", {"on_nan": "skip"}, "nan"), ("1e3", {"on_spike": "skip"}, "spikes")],
)
def test_a_step_left_out_is_as_if_it_had_not_been(
    root: Path, undisturbed: Path, without_the_batch: Path, worth: str, heed: dict[str, str], kind: str
) -> None:
    spoil(root, worth, f"batch.step.digest == '{digest_at(undisturbed, BAD)}'")
    plan = planned(root, **heed)
    folder = plan.run_folder()
    # stopped in the step that is left out, and gone on with
    assert trained(plan, lambda: len(steps_of(folder)) == BAD - 1).state == "stopped"
    assert [line["step"] for line in steps_of(folder)] == list(range(1, BAD))
    record.change(folder, state="running")
    found = trained(plan)
    assert [loss for _, loss, _ in curve_of(folder)] == [loss for _, loss, _ in curve_of(without_the_batch)]
    ours, theirs = model_of(folder), model_of(without_the_batch)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {name: count for name, count in found.faults.items() if count} == {kind: 1, "skipped": 1}
    fault = faults_of(folder)[0]
    assert fault["fault"] == kind
    assert fault["step"] == BAD
    assert "left out" in fault["text"]
    assert fault["samples"][0].startswith("data/views.jsonl:")


def test_a_spike_ends_the_run_where_it_should(root: Path, undisturbed: Path) -> None:
    spoil(root, "1e3", f"batch.step.digest == '{digest_at(undisturbed, BAD)}'")
    plan = planned(root, on_spike="stop")
    with pytest.raises(PtwError, match=r"step 20: the loss \d+\.\d+ is a spike.*data/views.jsonl:\d+"):
        trained(plan)
    assert record.read(plan.run_folder()).state == "failed"
    assert record.read(plan.run_folder()).faults["spikes"] == 1


def test_a_spike_that_is_ignored_is_told_and_trained_on(root: Path, undisturbed: Path) -> None:
    spoil(root, "1e3", f"batch.step.digest == '{digest_at(undisturbed, BAD)}'")
    found = trained(planned(root))
    assert [fault["step"] for fault in faults_of(found.folder)] == [BAD]
    assert [line["step"] for line in steps_of(found.folder)] == list(range(1, 31))
    assert found.faults == {"nan": 0, "spikes": 1, "skipped": 0}


def test_a_run_that_leaves_out_all_its_steps_ends(root: Path) -> None:
    spoil(root, "float('nan')", "run.steps_done == 3")
    plan = planned(root, on_nan="skip")
    with pytest.raises(PtwError, match=f"step 4: .* {guard.MOST_IN_A_ROW} steps before it were left out"):
        trained(plan)
    assert len(faults_of(plan.run_folder())) == guard.MOST_IN_A_ROW + 1


@pytest.mark.slow
def test_workers_leave_a_step_out_together(root: Path, undisturbed: Path) -> None:
    """Only the second worker's own loss is no number."""
    when = f"run.group.rank == 1 and batch.step.digest == '{digest_at(undisturbed, 3)}'"
    spoil(root, "float('nan')", when)
    plan = planned(root, steps=4, on_nan="skip")
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    fault = faults_of(plan.run_folder())[0]
    assert fault["step"] == 3
    seen = [digest for *_, digest in curve_of(plan.run_folder())]
    assert seen == [digest for *_, digest in curve_of(undisturbed)[:5] if digest != digest_at(undisturbed, 3)]
    # it is the second worker's rows that are named, not the first's
    assert 0 < len(fault["samples"]) < len(samples_of(undisturbed)[3])
    assert set(fault["samples"]) <= set(samples_of(undisturbed)[3])


def judged(losses: list[float], folder: Path) -> list[int]:
    """The steps, from 1, that are left out."""
    alone = Group(0, 1, torch.device("cpu"))
    watch = Guard(alone, Ledger(folder, alone), TrainingSettings(on_nan="skip", on_spike="skip"))
    step = StepRows((), 0)
    return [
        n
        for n, loss in enumerate(losses, 1)
        if watch.refuses(n, loss, 1.0, step, [(torch.tensor(loss), None)])
    ]


def test_what_a_spike_is(root: Path) -> None:
    folder = planned(root).run_folder()
    noise = [0.1 * math.sin(7.3 * n) for n in range(200)]
    falling = [6 * math.exp(-n / 40) + 1 + noise[n] for n in range(200)]
    assert judged(falling, folder) == []
    assert judged([*falling[:90], 5.0, *falling[90:]], folder) == [91]
    # two in a row: the first is no measure for the second
    assert judged([*falling[:90], 5.0, 5.0, *falling[90:]], folder) == [91, 92]
    assert (
        judged([9.0 if n == 5 else loss for n, loss in enumerate(falling)], folder) == []
    )  # too few before it
    assert judged([2.0] * 40 + [2.05] * 5, folder) == []  # no spread at all is no reason
    assert judged([0.0] * 40 + [0.3, 0.0, 0.2], folder) == []  # a reward that is seldom earned
