"""Advantages and losses by hand; a reward that only learning raises rises; what is planted is caught."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ptw.errors import PtwError
from ptw.rl import background, engines, port_engine, rollouts
from ptw.rl.answers import Worth
from ptw.runs import record
from ptw.train import alone, launch
from ptw.train.group import Group
from ptw.train.run import Run
from ptw.workspace import rooms
from ptw.workspace.manifest import read
from tests.rl.conftest import with_rewards
from tests.train.conftest import (
    curve_of,
    declare,
    measured_of,
    planned,
    steps_of,
    together,
    trained,
)

ALONE = Group(0, 1, torch.device("cpu"))
PREFER = """
[datasets.pairs]
source = "data/pairs.jsonl"
format = "preference"
[recipes.prefer]
recipe = "reward"
model = "taught"
tokenizer = "words"
dataset = "pairs"
settings = { steps = 15, window = 128, rows = 3, learning_rate = 3e-3 }
"""
JUDGED = """
[models.judge]
hf = "{judge}"
[recipes.judged]
recipe = "grpo"
model = "taught"
roles = {{ judge = "judge" }}
tokenizer = "words"
dataset = "asked"
[recipes.judged.settings]
engine = "ptw"
rewards = ["same"]
rows = 4
answers = 6
window = 64
max_new_tokens = 8
learning_rate = 1e-2
schedule = "constant"
"""
grpo = rooms.load(rooms.stock("recipes") / "grpo.py")


def of(**values: Any) -> Any:
    return grpo.Settings(rewards=["digits"], **values)


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    spread = math.sqrt(1 / 3)  # of 1 0 0 1, as of a sample
    said = {
        "grpo": [0.5 / spread, -0.5 / spread, -0.5 / spread, 0.5 / spread],
        "dr": [0.5, -0.5, -0.5, 0.5],
        "rloo": [1 - 1 / 3, -2 / 3, -2 / 3, 1 - 1 / 3],
    }
    for kind, wanted in said.items():
        found = grpo.advantages(rewards, of(advantage=kind))
        assert found[0].tolist() == pytest.approx(wanted, abs=1e-5)
        assert found[1].tolist() == [0, 0, 0, 0]


def test_the_clip_by_hand() -> None:
    before = torch.zeros(6)
    now = torch.tensor([0.5, 1.5, 2.0, 0.5, 1.5, 1.0]).log().requires_grad_()
    advantage = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    loss, clipped = grpo.surrogate(now, before, advantage, of(clip_low=0.2, clip_high=0.6))
    assert loss.tolist() == pytest.approx([-0.5, -1.5, -1.6, 0.8, 1.5, 1.0])
    assert clipped.tolist() == [0, 0, 1, 1, 0, 0]
    loss.sum().backward()
    assert now.grad is not None
    assert now.grad.tolist() == pytest.approx([-0.5, -1.5, 0, 0, 1.5, 1.0])


def test_what_weighs_the_same() -> None:
    lengths = torch.tensor([2.0, 2.0, 8.0, *[8.0] * 7])
    for weigh, wanted in (("tokens", [0.1] * 10), ("answers", [0.25] * 2 + [1 / 16] * 8)):
        found = grpo.weights(lengths, 2, 10, of(weigh=weigh))
        assert found.tolist() == pytest.approx(wanted)
        assert found.sum() == pytest.approx(1)
    constant = grpo.weights(lengths, 2, 10, of(weigh="constant", max_new_tokens=8))
    assert constant.tolist() == pytest.approx([1 / 16] * 10)


def test_kl_is_nought_where_nothing_changed_and_never_less() -> None:
    now, reference = torch.randn(2, 50, dtype=torch.float64)
    assert (grpo.divergence(now, now) == 0).all()
    assert (grpo.divergence(now, reference) > 0).all()


def test_equal_rewards_teach_nothing(root: Path) -> None:
    for step in steps_of(trained(planned(root, "rl", rewards="same", steps=2)).folder):
        assert step["reward"] == pytest.approx(0.3)
        assert step["loss"] == 0
        assert step["gradient_norm"] == 0


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        pytest.param({"advantage": "dr", "weigh": "constant", "learning_rate": 3e-2}, marks=pytest.mark.slow),
        {"advantage": "rloo", "weigh": "answers", "kl": 0.01, "temperature": 1.3},
    ],
)
def test_a_reward_rises(root: Path, overrides: dict[str, Any]) -> None:
    found = trained(planned(root, "rl", steps=15, **overrides))
    steps, (before, after) = steps_of(found.folder), measured_of(found.folder)
    assert after["held_out_reward"] > before["held_out_reward"] + 0.2
    assert sum(s["reward"] for s in steps[-3:]) / 3 > steps[0]["reward"] + 0.2
    assert max(abs(step["gap"] - 1) for step in steps) < 1e-4
    if "kl" in overrides:
        assert steps[0]["kl"] == pytest.approx(0, abs=1e-7)
        assert steps[-1]["kl"] > 0
    assert not (found.folder / background.FOLDER).exists()


def test_an_adapter_learns_too(root: Path) -> None:
    lora = {"adapter": "lora", "lora_rank": 16, "learning_rate": 1e-2}
    steps = steps_of(trained(planned(root, "rl", steps=12, **lora)).folder)
    assert max(step["reward"] for step in steps[6:]) > steps[0]["reward"] + 0.1
    assert max(abs(step["gap"] - 1) for step in steps) < 1e-4


def test_a_stopped_run_goes_on_with_the_same_prompts_and_answers(root: Path, taught: Path) -> None:
    undisturbed = trained(planned(with_rewards(root.parent / "other", taught), "rl"))
    plan = planned(root, "rl")
    folder = plan.run_folder()
    assert trained(plan, lambda: len(steps_of(folder)) == 3).state == "stopped"
    record.change(folder, state="running")
    assert curve_of(trained(plan).folder) == curve_of(undisturbed.folder)
    rewards = [[step["reward"] for step in steps_of(run)] for run in (folder, undisturbed.folder)]
    assert rewards[0] == rewards[1]


def test_what_is_learnt_are_the_ids_that_were_drawn_with_their_stop(root: Path) -> None:
    plan = planned(root, "rl", max_new_tokens=24)
    run = Run(plan, grpo.Settings(**plan.settings), ALONE, lambda: False)
    model, optimizer = run.model(), run.optimizer()

    def nothing(answers: Any) -> Any:
        return [[Worth.of_whole(one, 0.0) for one in group] for group in answers]

    with rollouts.rolling_out(run, model, optimizer, nothing) as rolled:
        batch = next(run.batches(rolled.of_step))
        drawn = [rolled._told[sample].answer for row in batch.rows for sample in row.samples]
        learnt = batch.targets_BT[batch.targets_BT >= 0].tolist()
        assert learnt == [id_ for answer in drawn for id_ in answer.drawn.ids]
        assert any(answer.ended for answer in drawn)
        for answer in drawn:
            assert answer.ended == (answer.drawn.ids[-1] in run.tokenizer.stop_ids)
            assert not set(answer.drawn.ids[:-1]) & run.tokenizer.stop_ids
        told = rolled.told(batch)
        torch.testing.assert_close(told.before_M, rolled.log_probs(batch).detach())
        torch.testing.assert_close(told.correction_M, torch.ones(len(learnt)))


class Stale(port_engine.PortEngine):
    """Goes on with the weights that it began with."""

    def load(self, folder: Path) -> None:
        if not hasattr(self, "_model"):
            super().load(folder)


class OtherTokens(port_engine.PortEngine):
    """Takes each id for the next one, as another tokenizer's table would."""

    def generate(self, asked: Any) -> Any:
        shifted = [type(one)(tuple((id_ + 1) % 290 for id_ in one.ids), one.seed) for one in asked]
        return super().generate(shifted)


class Narrow(port_engine.PortEngine):
    """Computes in bf16 what is trained in fp32."""

    def __init__(self, folder: Path, dtype: str, **rest: Any) -> None:
        super().__init__(folder, dtype="bfloat16", **rest)


@pytest.mark.parametrize(
    ("engine", "steps", "most"), [(Stale, 1, 1.001), (OtherTokens, 0, 1.01), (Narrow, 0, 1.0005)]
)
def test_an_engine_that_is_not_the_trainers_is_caught(
    root: Path, engine: Any, steps: int, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "PortEngine", engine)
    plan = planned(root, "rl", most_gap=most)
    with pytest.raises(
        PtwError, match=r"trainer and the engine are .* apart .* data/asked\.jsonl:\d+#\d+, token"
    ):
        trained(plan)
    assert len(steps_of(plan.run_folder())) == steps


def test_a_judge_that_people_taught_is_a_reward_too(root: Path) -> None:
    """What the recipe `reward` made prefers short answers of digits."""
    pairs = [
        {"prompt": f"What is {n} and one?", "chosen": str(n + 1), "rejected": "No no. " * (1 + n % 3)}
        for n in range(24)
    ]
    declare(root, PREFER, pairs=pairs)
    judge = trained(planned(root, "prefer")).folder / record.MODEL
    declare(root, JUDGED.format(judge=judge))
    found = trained(planned(root, "judged", steps=10))
    steps = steps_of(found.folder)
    assert sum(s["reward"] for s in steps[-3:]) / 3 > steps[0]["reward"] + 0.1
    for step in steps:
        assert step["reward"] == pytest.approx(step["reward_judge"] + step["reward_same"], abs=1e-5)


def test_a_prompt_that_comes_twice_in_a_step_is_answered_twice(root: Path) -> None:
    steps = steps_of(trained(planned(root, "rl", rows=14, steps=2)).folder)  # of 10 prompts
    assert all(step["learnt"] > 0 for step in steps)
    for step in steps:
        drawn = step["drawn_per_second"] * step["generate_seconds"]
        assert drawn == pytest.approx(step["length"] * 14 * 6, rel=1e-3), "6 answers to each of 14 prompts"
    run = Run(
        planned(root, "rl", rows=14),
        grpo.Settings(**planned(root, "rl", rows=14).settings),
        ALONE,
        lambda: False,
    )
    model, optimizer = run.model(), run.optimizer()

    def nothing(answers: Any) -> Any:
        assert len(answers) == 14
        return [[Worth.of_whole(one, 0.0) for one in group] for group in answers]

    with rollouts.rolling_out(run, model, optimizer, nothing) as rolled:
        batch = next(run.batches(rolled.of_step))
        samples = [sample for row in batch.step.rows for sample in row.samples]
        assert len(samples) == len(set(samples)) == 14 * 6


def test_beneath_an_adapter_the_reference_is_the_model_without_it(root: Path) -> None:
    lora = {"adapter": "lora", "lora_rank": 4, "learning_rate": 1e-2, "kl": 0.01}
    steps = steps_of(trained(planned(root, "rl", steps=3, **lora)).folder)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-7)
    assert steps[-1]["kl"] > 1e-6


def test_a_prompt_that_leaves_no_room_is_named_before_anything_is_drawn_or_dropped(root: Path) -> None:
    with pytest.raises(PtwError, match=r"data/asked\.jsonl:\d+: \d+ ids are more than the window of 4"):
        trained(planned(root, "rl", max_new_tokens=60))
    with pytest.raises(PtwError, match=r"max_new_tokens = 64: window = 64 has no room for a prompt"):
        trained(planned(root, "rl", max_new_tokens=64))
    rows = [json.loads(line) for line in (root / "data" / "asked.jsonl").read_text().splitlines()]
    rows[4]["prompt"] = "one and " * 30
    file = root / "workspace.toml"
    file.write_text(file.read_text().replace('format = "prompt"', 'format = "prompt"\ntoo_long = "drop"'))
    declare(root, "", asked=rows)
    found = trained(planned(root, "rl", steps=4))
    assert "1 row of asked not used, first data/asked.jsonl:5" in (found.folder / record.EVENTS).read_text()


def test_what_was_cut_off_is_not_learnt_from_where_that_is_wanted(root: Path) -> None:
    found = []
    for learnt in ("true", "false"):
        wanted = {"max_new_tokens": 2, "steps": 1, "rows": 1, "answers": 40, "weigh": "answers"}
        plan = planned(root, "rl", **wanted, learn_cut_off=learnt)
        found.append(steps_of(trained(plan).folder)[0])
    with_all, without = found
    assert 0 < with_all["ended"] < 1
    assert with_all["reward"] == without["reward"]
    assert with_all["loss"] == pytest.approx(0, abs=1e-6)
    assert abs(without["loss"]) > 1e-3  # of those that ended, which are not all


def test_a_run_goes_on_with_a_reward_that_was_mended(root: Path) -> None:
    file = root / "rewards" / "digits.py"
    good = file.read_text()
    file.write_text("def reward(answer, row):\n    return row['wanted']\n")
    run = launch.begun(read(root), "rl", {}, resume=False)
    record.change(run.folder, state="failed")
    file.write_text(good)
    mended = launch.begun(read(root), "rl", {"reward_seconds": "90"}, resume=True)
    assert mended.folder == run.folder
    assert mended.digests["reward digits"] != run.digests["reward digits"]
    assert "reward digits is another file than before" in (run.folder / record.EVENTS).read_text()


def test_what_is_held_out_is_asked_in_parts(root: Path) -> None:
    found = trained(planned(root, "rl", rows=1, answers=2, steps=1))
    (line,) = measured_of(found.folder)[-1:]
    assert 0 <= line["held_out_reward"] <= 1
    assert line["held_out_length"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted", [{}, {"rows": 1, "answers": 3, "window": 128}], ids=["rows-for-all", "a-worker-without-a-row"]
)
def test_two_workers_learn_as_one(root: Path, taught: Path, wanted: dict[str, Any]) -> None:
    other = with_rewards(root.parent / "other", taught)
    one = steps_of(trained(planned(other, "rl", steps=3, **wanted)).folder)
    plan = planned(root, "rl", steps=3, **wanted)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    two = steps_of(plan.run_folder())
    for key in ("reward", "length", "gap", "loss", "gradient_norm"):
        assert [s[key] for s in two] == pytest.approx([s[key] for s in one], rel=1e-4, abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("dealt", ["", "tensor = 2"], ids=["sharded", "heads-dealt"])
def test_where_nothing_is_learnt_the_engine_has_the_same_weights_at_each_sync(
    root: Path, taught: Path, dealt: str
) -> None:
    """Gathered from two workers: what is sent to an engine is what they train, to the bit."""
    toml = root / "workspace.toml"
    named = toml.read_text().replace("[recipes.rl]\n", '[recipes.rl]\ncluster = "pair"\n')
    toml.write_text(named.replace("[clusters.pair]\n", f"[clusters.pair]\n{dealt}\n"))
    plan = planned(root, "rl", learning_rate=0, steps=3)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert max(abs(step["gap"] - 1) for step in steps_of(plan.run_folder())) < 1e-5
    ours, theirs = (
        load_file(folder / "model.safetensors") for folder in (plan.run_folder() / "model", taught)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_cannot_be_is_refused(root: Path) -> None:
    wrong = (
        {"answers": 1},
        {"temperature": 0},
        {"clip_low": 1},
        {"most_gap": 0.9},
        {"top_p": 1.5},
        {"kl": -1},
        {"lora_dropout": 0.1, "adapter": "lora"},
    )
    for overrides in wrong:
        with pytest.raises(PtwError, match=f"settings: {next(iter(overrides))} = "):
            trained(planned(root, "rl", **overrides))
    with pytest.raises(PtwError, match=r"there is no rewards/luck\.py; there are digits, hits, json_keys"):
        trained(planned(root, "rl", rewards="luck"))
    (root / "rewards" / "digits.py").write_text("def reward(answer, row):\n    return row['wanted']\n")
    with pytest.raises(
        PtwError, match=r"rewards/digits\.py: data/asked\.jsonl:\d+: KeyError: 'wanted'; the answer"
    ):
        trained(planned(root, "rl"))
    (root / "rewards" / "digits.py").write_text("def reward(answer, row):\n    return float('nan')\n")
    with pytest.raises(PtwError, match=r"rewards/digits\.py: data/asked\.jsonl:\d+: nan is no reward"):
        trained(planned(root, "rl"))
    file = root / "workspace.toml"
    file.write_text(file.read_text().replace('rewards = ["digits"]\n', ""))
    with pytest.raises(PtwError, match="rewards is not set, and there is no judge"):
        trained(planned(root, "rl"))


def test_engines_are_processes_of_ray(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker that learns from data does without Ray; one that has answers drawn does not."""
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert not alone.suffices(planned(root, "rl"))
    assert alone.suffices(planned(root, "next"))
