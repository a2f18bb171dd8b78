"""A checkpoint is whole or not there."""

import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from ptw.errors import PtwError
from ptw.runs import record
from ptw.train import checkpoint
from ptw.train.group import Group
from ptw.train.saving import Saver
from tests.train.conftest import planned, steps_of, trained

ALONE = Group(0, 1, torch.device("cpu"))


def toy(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 1))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(8, 40)).sum().backward()
    optimizer.step()
    return module, optimizer


def tensors_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Parameters, and what the optimizer keeps of them."""
    states = optimizer.state_dict()["state"].values()
    return [*module.parameters(), *(tensor for state in states for tensor in state.values())]


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """A write beyond it fails as a full disk does, without root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    module, optimizer = toy(0)
    folder = checkpoint.save(tmp_path, 3, checkpoint.contents(module, optimizer), {"step": 3}, ALONE)
    other, other_optimizer = toy(1)
    assert checkpoint.load(folder, other, other_optimizer) == {"step": 3}
    for ours, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    states = [o.state_dict()["state"] for o in (optimizer, other_optimizer)]
    for key in states[0]:
        for name in states[0][key]:
            assert torch.equal(states[0][key][name], states[1][key][name])


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (checkpoint.Keep(2), [6, 7]),
        (checkpoint.Keep(1), [7]),
        (checkpoint.Keep(2, every=3), [3, 6, 7]),
        (checkpoint.Keep(1, every=2), [2, 4, 6, 7]),
        (checkpoint.Keep(9, every=2), [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_newest_few_and_the_asked_for_are_kept(
    tmp_path: Path, keep: checkpoint.Keep, kept: list[int]
) -> None:
    module, optimizer = toy(0)
    for step in range(1, 8):
        checkpoint.save(tmp_path, step, checkpoint.contents(module, optimizer), {}, ALONE, keep)
    assert [checkpoint.step_of(folder) for folder in checkpoint.complete(tmp_path)] == kept


def test_a_run_keeps_what_its_settings_ask_for(root: Path) -> None:
    folder = trained(planned(root, keep_checkpoints=1, keep_checkpoint_every=10, steps=25)).folder
    assert [checkpoint.step_of(saved) for saved in checkpoint.complete(folder)] == [10, 20, 25]


def test_the_best_models_that_a_kept_checkpoint_may_name_stay_with_it(root: Path) -> None:
    """A better model is measured after every second step."""
    recipe = root / "recipes" / "slow.py"
    better = "run.steps_done % 2 == 0 and run.keep_best(model, {'x': run.steps_done}, 'x'); run.step("
    recipe.write_text(recipe.read_text().replace("run.step(", better))
    for every, best in ((None, [18, 20]), ("10", [8, 10, 18, 20])):
        plan = planned(
            root, keep_checkpoints=2, **({} if every is None else {"keep_checkpoint_every": every})
        )
        folder = plan.run_folder()
        assert trained(plan, lambda folder=folder: len(steps_of(folder)) >= 20).state == "stopped"
        assert [int(path.name[-8:]) for path in sorted(folder.glob("best-step-*"))] == best


def test_a_multiple_that_no_checkpoint_falls_on_is_refused(root: Path) -> None:
    with pytest.raises(PtwError, match=r"keep_checkpoint_every = 12 is no multiple of checkpoint_every = 5"):
        trained(planned(root, keep_checkpoint_every=12))


@pytest.mark.parametrize("spoil", ["cut", "flip", "remove", "unseal", "garble seal"])
def test_a_bad_checkpoint_is_skipped_with_a_word(tmp_path: Path, spoil: str) -> None:
    module, optimizer = toy(0)
    good = checkpoint.save(tmp_path, 1, checkpoint.contents(module, optimizer), {}, ALONE)
    bad = checkpoint.save(tmp_path, 2, checkpoint.contents(module, optimizer), {}, ALONE)
    data = next(bad.glob("*.distcp"))
    if spoil == "cut":
        data.write_bytes(data.read_bytes()[:-10])
    elif spoil == "flip":
        data.write_bytes(data.read_bytes()[:-10] + b"0123456789")
    elif spoil == "remove":
        data.unlink()
    elif spoil == "unseal":
        (bad / checkpoint.SEAL).unlink()
    else:
        (bad / checkpoint.SEAL).write_text('{"')
    said: list[str] = []
    assert checkpoint.newest(tmp_path, ALONE, said.append) == good
    assert bool(said) == (spoil != "unseal")  # without its seal it was never there


def test_a_full_disk_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    module, optimizer = toy(0)
    good = checkpoint.save(tmp_path, 1, checkpoint.contents(module, optimizer), {}, ALONE)
    with files_limited_to(4096), pytest.raises(PtwError, match=r"step 2 cannot be saved: .* too large"):
        checkpoint.save(tmp_path, 2, checkpoint.contents(module, optimizer), {}, ALONE)
    assert list((tmp_path / "checkpoints").iterdir()) == [good]
    assert checkpoint.newest(tmp_path, ALONE, print) == good


def test_a_run_on_a_full_disk_goes_on_once_there_is_room(root: Path, undisturbed: Path) -> None:
    plan = planned(root)
    # metrics still fit, a checkpoint does not
    with files_limited_to(40_000), pytest.raises(PtwError, match="Make room"):
        trained(plan)
    found = record.change(plan.run_folder(), state="running")
    assert not list((found.folder / "checkpoints").iterdir())
    assert trained(plan).state == "done"
    assert [s["loss"] for s in steps_of(found.folder)] == [s["loss"] for s in steps_of(undisturbed)]


def test_metrics_that_no_longer_fit_end_the_run_and_are_said(root: Path, undisturbed: Path) -> None:
    plan = planned(root, checkpoint_every=100, record_samples="false")
    with (
        files_limited_to(6000),
        pytest.raises(PtwError, match=r"metrics.jsonl: cannot be written: .*make room"),
    ):
        trained(plan)
    found = record.read(plan.run_folder())
    assert found.state == "failed"
    assert "metrics.jsonl" in (found.message or "")
    assert 0 < len(steps_of(found.folder)) < 30
    record.change(plan.run_folder(), state="running")
    assert trained(plan).state == "done"
    assert [s["loss"] for s in steps_of(found.folder)] == [s["loss"] for s in steps_of(undisturbed)]


def test_a_checkpoint_holds_what_was_there_when_it_was_begun(tmp_path: Path) -> None:
    """Not what training makes of it meanwhile; the second copy goes into the first one's memory."""
    module, optimizer = toy(0)
    expected, counts = {}, {"rows": [1]}
    with Saver(tmp_path, ALONE, checkpoint.Keep()) as saver:
        for step in (1, 2):
            expected[step] = [tensor.detach().clone() for tensor in tensors_of(module, optimizer)]
            counts["rows"] = [step]
            saver.begin(step, module, optimizer, counts)
            counts["rows"].append(7)
            module(torch.randn(8, 40)).sum().backward()
            optimizer.step()
    for step, folder in enumerate(checkpoint.complete(tmp_path), 1):
        other, other_optimizer = toy(1)
        assert checkpoint.load(folder, other, other_optimizer) == {"rows": [step]}
        for saved, was in zip(tensors_of(other, other_optimizer), expected[step], strict=True):
            assert torch.equal(saved, was)


def test_what_goes_wrong_while_training_goes_on_is_told_at_the_next(tmp_path: Path) -> None:
    module, optimizer = toy(0)
    with Saver(tmp_path, ALONE, checkpoint.Keep()) as saver:
        saver.begin(1, module, optimizer, {})
        saver.finish()
        with files_limited_to(4096):
            saver.begin(2, module, optimizer, {})
            until = time.monotonic() + 20
            while not saver.failed:
                assert time.monotonic() < until
                time.sleep(0.01)
        with pytest.raises(PtwError, match=r"step 2 cannot be saved: .* too large"):
            saver.begin(3, module, optimizer, {})
        saver.begin(3, module, optimizer, {})
    assert [checkpoint.step_of(folder) for folder in checkpoint.complete(tmp_path)] == [1, 3]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_training_ends_soon_after_a_checkpoint_could_not_be_saved(root: Path) -> None:
    """Not at the next one, which may be hours away: what is trained until then would be lost."""
    plan = planned(root, steps=200, checkpoint_every=50, record_samples="false")
    folder = plan.run_folder()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def room_runs_out() -> bool:
        if len(steps_of(folder)) == 48:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))  # metrics still fit
        time.sleep(0.02)
        return False

    try:
        with pytest.raises(PtwError, match=r"step 50 cannot be saved: .*Make room"):
            trained(plan, room_runs_out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 50 <= len(steps_of(folder)) < 90


def test_a_checkpoint_that_is_being_written_is_finished_when_training_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with Saver(tmp_path, ALONE, checkpoint.Keep()) as saver:
            saver.begin(1, *toy(0), {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert checkpoint.newest(tmp_path, ALONE, print) is not None


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path: Path) -> None:
    module, optimizer = toy(0)
    good = checkpoint.save(tmp_path, 1, checkpoint.contents(module, optimizer), {}, ALONE)
    shutil.copytree(good, good.with_name(".saving-step-00000002"))
    assert checkpoint.newest(tmp_path, ALONE, print) == good
    checkpoint.save(tmp_path, 2, checkpoint.contents(module, optimizer), {}, ALONE)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_the_state_is_written_after_what_all_workers_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that leaves before the collective save lets the others wait in it."""
    called: list[str] = []
    write = checkpoint.distributed_checkpoint.save

    def save(*arguments: object, **named: object) -> None:
        called.append("together")
        write(*arguments, **named)

    def fail(*_: object) -> None:
        called.append("alone")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.distributed_checkpoint, "save", save)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(PtwError, match="the disk is full"):
        checkpoint.save(tmp_path, 1, checkpoint.contents(*toy(0)), {}, ALONE)
    assert called == ["together", "alone"]
