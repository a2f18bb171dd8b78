"""Two workers compute what one computes, and either goes on with the other's checkpoint."""

from pathlib import Path

import pytest
import torch

from ptw.runs import record
from ptw.runs.open import open_named
from ptw.workspace.manifest import read
from tests.train.conftest import (
    curve_of,
    make_workspace,
    planned,
    samples_of,
    steps_of,
    together,
    trained,
)


def losses_of(folder: Path) -> list[float]:
    return [line["loss"] for line in steps_of(folder)]


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_workers_give_the_curve_of_one(tmp_path: Path, tied: bool) -> None:
    """rows = 3 leaves the second worker without a row in each step's second half."""
    root = make_workspace(tmp_path / "ws", tied=tied, recipe="pretrain")
    settings = {"rows": 3, "rows_at_once": 1, "steps": 12}
    one = trained(planned(root, **settings))
    plan = planned(root, **settings)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert losses_of(plan.run_folder()) == pytest.approx(losses_of(one.folder), rel=2e-6)
    norms = [[line["gradient_norm"] for line in steps_of(f)] for f in (plan.run_folder(), one.folder)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    work = [[line["flops"] for line in steps_of(folder)] for folder in (plan.run_folder(), one.folder)]
    assert work[0] == work[1]
    assert samples_of(plan.run_folder()) == samples_of(one.folder)
    both = [open_named(read(root), name).loaded.module for name in (plan.run_folder().name, one.name)]
    for (name, ours), theirs in zip(both[0].named_parameters(), both[1].parameters(), strict=True):
        # Adam divides by what is nearly nothing where a gradient is: rounding grows there
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_a_run_goes_on_with_more_workers_and_with_fewer(root: Path, undisturbed: Path) -> None:
    plan = planned(root)
    folder = plan.run_folder()
    trained(plan, lambda: len(steps_of(folder)) >= 10)  # one worker, to step 11
    (root / "recipes" / "slow.py").write_text(
        (root / "recipes" / "slow.py")
        .read_text()
        .replace("time.sleep", "run.steps_done == 20 and open(run.plan.folder / 'stop', 'w'); time.sleep")
    )
    assert record.read(folder).state == "stopped"
    for done in together(plan, 2):  # two, to step 21
        assert done.returncode in (0, 130), done.stderr
    assert record.read(folder).state == "stopped"
    assert len(steps_of(folder)) == 21
    record.change(folder, state="running")
    (folder / "stop").unlink()
    (root / "recipes" / "slow.py").write_text(
        (root / "recipes" / "slow.py").read_text().replace("run.steps_done == 20", "False")
    )
    trained(plan)  # and one again
    assert losses_of(folder) == pytest.approx(losses_of(undisturbed), rel=1e-5)
    assert [digest for *_, digest in curve_of(folder)] == [digest for *_, digest in curve_of(undisturbed)]
    assert samples_of(folder) == samples_of(undisturbed)
