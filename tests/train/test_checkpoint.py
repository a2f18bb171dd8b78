"""A checkpoint is whole or not there."""

import resource
import shutil
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
from tests.train.conftest import planned, steps_of, trained

ALONE = Group(0, 1, torch.device("cpu"))


def toy(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 1))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(8, 40)).sum().backward()
    optimizer.step()
    return module, optimizer


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
    folder = checkpoint.save(tmp_path, 3, module, optimizer, {"step": 3}, ALONE)
    other, other_optimizer = toy(1)
    assert checkpoint.load(folder, other, other_optimizer) == {"step": 3}
    for ours, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    states = [o.state_dict()["state"] for o in (optimizer, other_optimizer)]
    for key in states[0]:
        for name in states[0][key]:
            assert torch.equal(states[0][key][name], states[1][key][name])


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    module, optimizer = toy(0)
    for step in range(1, 5):
        checkpoint.save(tmp_path, step, module, optimizer, {}, ALONE, keep=2)
    assert [checkpoint.step_of(folder) for folder in checkpoint.complete(tmp_path)] == [3, 4]


@pytest.mark.parametrize("spoil", ["cut", "flip", "remove", "unseal", "garble seal"])
def test_a_bad_checkpoint_is_skipped_with_a_word(tmp_path: Path, spoil: str) -> None:
    module, optimizer = toy(0)
    good = checkpoint.save(tmp_path, 1, module, optimizer, {}, ALONE)
    bad = checkpoint.save(tmp_path, 2, module, optimizer, {}, ALONE)
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
    good = checkpoint.save(tmp_path, 1, module, optimizer, {}, ALONE)
    with files_limited_to(4096), pytest.raises(PtwError, match=r"step 2 cannot be saved: .* too large"):
        checkpoint.save(tmp_path, 2, module, optimizer, {}, ALONE)
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


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path: Path) -> None:
    module, optimizer = toy(0)
    good = checkpoint.save(tmp_path, 1, module, optimizer, {}, ALONE)
    shutil.copytree(good, good.with_name(".saving-step-00000002"))
    assert checkpoint.newest(tmp_path, ALONE, print) == good
    checkpoint.save(tmp_path, 2, module, optimizer, {}, ALONE)
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
        checkpoint.save(tmp_path, 1, *toy(0), {}, ALONE)
    assert called == ["together", "alone"]
