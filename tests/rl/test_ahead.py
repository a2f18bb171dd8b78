"""While a step learns the next one's answers are drawn: of the same prompts, and resumed exactly."""

import time
from pathlib import Path
from typing import Any

import pytest

from ptw.rl import ahead, engines, port_engine
from ptw.runs import record
from ptw.train import launch
from ptw.workspace import rooms
from ptw.workspace.manifest import read
from tests.rl.conftest import with_rewards
from tests.train.conftest import curve_of, measured_of, planned, samples_of, steps_of, together, trained

TIMES = {
    "seconds",
    "drawn_per_second",
    "overlapped",
    "feed_seconds",
    "flops",
    "memory_bytes",
    "mfu",
    "reserved_bytes",
}


def figures(folder: Path) -> list[dict[str, Any]]:
    """What was written down of each step, but for the time it took."""
    return [
        {key: value for key, value in step.items() if key not in TIMES and not key.endswith("_seconds")}
        for step in steps_of(folder)
    ]


def test_where_nothing_is_learnt_it_is_as_if_nothing_was_drawn_ahead(root: Path) -> None:
    still = {
        "learning_rate": 0,
        "epochs": 2,
        "rows": 3,
        "eval_every": 2,
    }  # of ten prompts: a rest in each epoch
    runs = [trained(planned(root, "rl", steps="none", ahead=n, **still)).folder for n in (0, 1)]
    plain, drawn_ahead = (figures(run) for run in runs)
    assert drawn_ahead == plain
    assert len(plain) == 7
    assert measured_of(runs[1]) == measured_of(runs[0])


def test_it_learns_from_answers_of_the_step_before(root: Path) -> None:
    counts = ((0, 4), (1, 12))
    runs = [trained(planned(root, "rl", steps=steps, ahead=n)).folder for n, steps in counts]
    plain, late = (steps_of(run) for run in runs)
    assert late[0]["digest"] == plain[0]["digest"]
    assert late[0]["reward"] == plain[0]["reward"]
    assert late[1]["reward"] != plain[1]["reward"], "the second answers are of the first weights"
    prompts = [
        {step: {sample.partition("#")[0] for sample in samples} for step, samples in samples_of(run).items()}
        for run in runs
    ]
    assert prompts[0] == {step: prompts[1][step] for step in range(1, 5)}
    assert max(abs(step["gap"] - 1) for step in late) < 1e-4, "like is compared with like"
    assert sum(step["reward"] for step in late[-3:]) / 3 > late[0]["reward"] + 0.2
    assert max(step["clipped"] for step in late) > 0, "a step away from the weights that drew"
    assert not (runs[1] / ahead.FOLDER).exists()


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["stopped", "killed"])
def test_a_run_that_ends_in_the_middle_goes_on_with_what_was_drawn(
    root: Path, taught: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = trained(planned(with_rewards(root.parent / "other", taught), "rl", ahead=1))
    plan = planned(root, "rl", ahead=1)
    folder = plan.run_folder()
    if kind == "stopped":
        assert trained(plan, lambda: len(steps_of(folder)) == 3).state == "stopped"
    else:
        write = ahead.write

        def dies(run: Path, step: int, *rest: Any) -> None:
            write(run, step, *rest)
            if step == 5:  # between drawing for the sixth step and taking the fifth
                raise Killed

        monkeypatch.setattr(ahead, "write", dies)
        with pytest.raises(Killed):
            trained(plan)
        monkeypatch.undo()
        assert len(steps_of(folder)) == 4
    record.change(folder, state="running")
    assert figures(trained(plan).folder) == figures(undisturbed.folder)
    assert curve_of(folder) == curve_of(undisturbed.folder)


class Slow(port_engine.PortEngine):
    """Takes a while, as one on another machine does."""

    def generate(self, asked: Any) -> Any:
        time.sleep(0.4)
        return super().generate(asked)


@pytest.mark.slow
def test_drawing_no_longer_adds_to_a_step(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PortEngine", Slow)
    recipe = (rooms.stock("recipes") / "grpo.py").read_text()
    for line, slow in (
        ("from typing import", "import time\nfrom typing import"),
        ("            told = ", "            time.sleep(0.5)\n            told = "),
    ):
        assert line in recipe
        recipe = recipe.replace(line, slow)
    (root / "recipes" / "slow_grpo.py").write_text(recipe)
    file = root / "workspace.toml"
    file.write_text(file.read_text().replace('recipe = "grpo"', 'recipe = "slow_grpo"'))
    more = {"rows_at_once": 100, "eval_every": "none"}
    plain, late = (steps_of(trained(planned(root, "rl", steps=4, ahead=n, **more)).folder) for n in (0, 1))
    waited = [sum(step["generate_seconds"] for step in run[1:]) / 3 for run in (plain, late)]
    assert waited[1] < waited[0] - 0.25
    assert all(step["overlapped"] > 0.3 for step in late[1:])


def test_what_a_thread_runs_into_ends_the_run(root: Path) -> None:
    (root / "rewards" / "digits.py").write_text(
        "calls = 0\ndef reward(answer, row):\n    global calls\n    calls += 1\n    return 1 / (calls < 60)\n"
    )
    plan = planned(root, "rl", ahead=1, eval_every="none")
    with pytest.raises(Exception, match=r"rewards/digits\.py: data/asked\.jsonl:\d+: ZeroDivisionError"):
        trained(plan)
    assert record.read(plan.run_folder()).state == "failed"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data warns of its own defaults
def test_engines_of_ray_draw_ahead(ray: None, root: Path) -> None:
    settings = {"eval_every": "none", "steps": "4"}
    plain, late = (
        launch.train(read(root), "rl", {**settings, "ahead": str(n)}, resume=False) for n in (0, 1)
    )
    assert [step["step"] for step in steps_of(late)] == [1, 2, 3, 4]
    assert steps_of(late)[0]["reward"] == steps_of(plain)[0]["reward"]
    assert max(abs(step["gap"] - 1) for step in steps_of(late)) < 1e-4


@pytest.mark.slow
def test_two_workers_draw_ahead_as_one(root: Path, taught: Path) -> None:
    one = steps_of(trained(planned(with_rewards(root.parent / "other", taught), "rl", ahead=1)).folder)
    plan = planned(root, "rl", ahead=1)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    two = steps_of(plan.run_folder())
    for key in ("reward", "length", "gap", "loss", "gradient_norm"):
        assert [s[key] for s in two] == pytest.approx([s[key] for s in one], rel=1e-4, abs=1e-5), key
