"""The losses are the papers', a pair weighs the same however it is packed, and accuracy rises."""

import math
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from ptw.errors import PtwError
from ptw.evals.rows import forward_of
from ptw.runs import record
from ptw.train import kept, pairs
from ptw.train.group import Group
from ptw.train.run import Run
from ptw.workspace import rooms
from ptw.workspace.check import problems
from tests.train.conftest import (
    curve_of,
    declare,
    make_workspace,
    measured_of,
    planned,
    steps_of,
    together,
    trained,
)

ALONE = Group(0, 1, torch.device("cpu"))
TOML = """
[datasets.pairs]
source = "data/pairs.jsonl"
format = "preference"
[recipes.prefer]
recipe = "dpo"
model = "tiny"
tokenizer = "words"
dataset = "pairs"
eval_dataset = "pairs"
[recipes.prefer.settings]
steps = 12
window = 128
rows = 3
rows_at_once = 2
learning_rate = 3e-3
eval_every = 6
checkpoint_every = 5
"""
dpo = rooms.load(rooms.stock("recipes") / "dpo.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return with_pairs(tmp_path / "ws")


def with_pairs(root: Path) -> Path:
    make_workspace(root)
    rows = [{"prompt": f"{n}?", "chosen": str(n + 1), "rejected": "No. " * (1 + n % 3)} for n in range(24)]
    return declare(root, TOML, pairs=rows)


def begun(root: Path, **overrides: Any) -> tuple[Run, Any]:
    plan = planned(root, "prefer", **overrides)
    run = Run(plan, dpo.Settings(**plan.settings), ALONE, lambda: False)
    return run, run.model()


def test_it_begins_at_ln_2_and_learns_to_prefer(root: Path) -> None:
    found = trained(planned(root, "prefer"))
    steps = steps_of(found.folder)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[0]["margin"] == pytest.approx(0, abs=1e-6)
    measured = measured_of(found.folder)
    assert [line["step"] for line in measured] == [0, 6, 12]
    assert measured[-1]["held_out_loss"] < measured[0]["held_out_loss"] - 0.1
    assert measured[-1]["held_out_accuracy"] > 0.9
    assert measured[-1]["held_out_margin"] > 0.1


@pytest.mark.parametrize("loss", ["ipo", "kto", "simpo"])
def test_the_other_losses_learn_to_prefer_too(root: Path, loss: str) -> None:
    steps = steps_of(trained(planned(root, "prefer", loss=loss, beta=0.5)).folder)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["margin"] > steps[0]["margin"]


def test_the_losses_are_the_papers() -> None:
    ratios = torch.randn(64, 2, dtype=torch.float64) * 5
    chosen, rejected = ratios.unbind(-1)
    beta = 0.3
    said = {
        "dpo": -logsigmoid(beta * (chosen - rejected)),
        "ipo": (chosen - rejected - 1 / (2 * beta)) ** 2,
        "kto": (1 - torch.sigmoid(beta * chosen)) + (1 - torch.sigmoid(-beta * rejected)),
        "simpo": -torch.log(torch.sigmoid(beta * chosen - beta * rejected - 1.2)),
    }
    for name, wanted in said.items():
        settings = dpo.Settings(loss=name, beta=beta, margin=1.2)
        torch.testing.assert_close(dpo.loss(ratios, settings), wanted)
    smooth = dpo.loss(ratios, dpo.Settings(beta=beta, label_smoothing=0.2))
    flipped = dpo.loss(ratios.flip(-1), dpo.Settings(beta=beta))
    torch.testing.assert_close(smooth, 0.8 * said["dpo"] + 0.2 * flipped)


def test_a_pair_says_the_same_packed_and_alone(root: Path) -> None:
    run, model = begun(root)
    rows = list(run.rows_ahead())[:3]
    packed = forward_of(rows, ALONE.device)
    together_N2, counts_N2 = pairs.log_probs(run, model, packed), pairs.lengths(packed)
    assert len(together_N2) == sum(len(row.samples) for row in rows) > len(rows)
    alone = []
    for row in rows:
        begin = 0
        for length in row.lengths:
            one = slice(begin, begin + length)
            single = forward_of([type(row)(row.ids[one], row.targets[one], (length,), ())], ALONE.device)
            hidden = model(single.ids_BT, single.layout)
            loss = model.head().loss(hidden, single.targets_BT)
            alone.append([-loss.item(), (single.targets_BT >= 0).sum().item()])
            begin += length
    torch.testing.assert_close(together_N2.flatten(), torch.tensor(alone)[:, 0], rtol=1e-5, atol=1e-5)
    assert counts_N2.flatten().tolist() == [count for _, count in alone]


def test_the_gradient_is_that_of_whole_logits(root: Path) -> None:
    run, model = begun(root)
    batch = forward_of(list(run.rows_ahead())[:2], ALONE.device)

    def gradients(log_probs_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        dpo.loss(pairs.of_pairs(log_probs_BT, batch), dpo.Settings()).sum().backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    head = model.head()
    chunked = gradients(head.log_probs(model(batch.ids_BT, batch.layout), batch.targets_BT))
    logits = head.logits(model(batch.ids_BT, batch.layout)).log_softmax(-1)
    learnt = batch.targets_BT >= 0
    picked = logits.gather(-1, batch.targets_BT.clamp(min=0)[..., None]).squeeze(-1)
    whole = gradients(torch.where(learnt, picked, 0.0))
    for name, gradient in chunked.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 100, 130, 150, 400])
def test_what_is_kept_before_is_what_training_reads(root: Path, steps: int) -> None:
    """Near the end of an epoch the endless stream packs otherwise than one that ends there."""
    rows = [{"prompt": f"{n}?", "chosen": str(n + 1), "rejected": "No. " * (1 + n % 7)} for n in range(900)]
    declare(root, "", pairs=rows)
    plan = planned(root, "prefer", steps=steps)
    run = Run(plan, dpo.Settings(**plan.settings), ALONE, lambda: False)
    kept = {sample for row in run.rows_ahead(held_out_too=False) for sample in row.samples}
    with closing(run._open_stream(None)) as stream:
        read = {sample for row in islice(stream, steps * 3) for sample in row.samples}
    assert read <= kept


def test_a_run_that_was_stopped_goes_on_with_the_same_reference(root: Path) -> None:
    undisturbed = trained(planned(with_pairs(root.parent / "other"), "prefer"))
    plan = planned(root, "prefer")
    folder = plan.run_folder()
    assert trained(plan, lambda: len(steps_of(folder)) == 6).state == "stopped"
    (part,) = (folder / kept.FOLDER / pairs.KEPT).glob("*.safetensors")
    written = part.read_bytes()
    record.change(folder, state="running")
    assert curve_of(trained(plan).folder) == curve_of(undisturbed.folder)
    assert part.read_bytes() == written


def test_beneath_an_adapter_the_reference_is_the_model_without_it(root: Path) -> None:
    base = trained(planned(root, "chat", steps=2)).folder / record.MODEL
    declared = (root / "workspace.toml").read_text()
    (root / "workspace.toml").write_text(
        declared.replace("[tokenizers.items]", f'[models.base]\nhf = "{base}"\n[tokenizers.items]').replace(
            'recipe = "dpo"\nmodel = "tiny"\ntokenizer = "words"',
            'recipe = "dpo"\nmodel = "base"\ntokenizer = "words"',
        )
    )
    lora = {"adapter": "lora", "lora_rank": 4, "learning_rate": 1e-2}
    found = trained(planned(root, "prefer", **lora))
    assert not (found.folder / kept.FOLDER).exists()
    steps = steps_of(found.folder)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[-1]["loss"] < 0.6
    run, model = begun(root)
    batch = forward_of(list(run.rows_ahead())[:2], ALONE.device)
    run, adapted = begun(root, **lora)
    before = pairs.reference(run, adapted)(batch)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter)
    assert torch.equal(pairs.reference(run, adapted)(batch), before)
    assert not torch.equal(pairs.log_probs(run, adapted, batch), before)
    torch.testing.assert_close(before, pairs.log_probs(run, model, batch).detach())


@pytest.mark.slow
def test_two_workers_prefer_as_one_does(root: Path) -> None:
    one = steps_of(trained(planned(with_pairs(root.parent / "other"), "prefer", steps=4)).folder)
    plan = planned(root, "prefer", steps=4)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    two = steps_of(plan.run_folder())
    for key in ("loss", "accuracy", "margin"):
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], rel=1e-5, abs=1e-6)


def test_what_cannot_be_is_refused_before_anything_is_loaded(root: Path) -> None:
    without_effect = {"label_smoothing": 0.1, "loss": "ipo"}
    for wrong in ({"beta": 0}, {"label_smoothing": 1.5}, {"margin": -1}, without_effect):
        with pytest.raises(PtwError, match=f"settings: {next(iter(wrong))} = "):
            trained(planned(root, "prefer", **wrong))
    declared = (root / "workspace.toml").read_text()
    (root / "workspace.toml").write_text(declared.replace('recipe = "dpo"', 'recipe = "sft"'))
    said = [str(problem) for problem in problems(root)]
    assert any(
        "its format is preference, and recipes/sft takes chat or text or event" in text for text in said
    )
