"""A reward model prefers what people did, gives levels where they rated, and loads as a classifier."""

import math
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ptw.errors import PtwError
from ptw.evals.answer import answer
from ptw.evals.evaluate import evaluate
from ptw.evals.rows import empty, forward_of
from ptw.runs import record
from ptw.train import scored
from ptw.train.moment import open_at
from ptw.workspace import rooms
from ptw.workspace.manifest import read
from tests.train.conftest import declare, measured_of, planned, steps_of, together, trained
from tests.train.test_adapted import with_base

# peft still asks transformers by old names
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOML = """
[datasets.pairs]
source = "data/pairs.jsonl"
format = "preference"
[datasets.rated]
source = "data/rated.jsonl"
format = "rated"
[recipes.prefer]
recipe = "reward"
model = "tiny"
tokenizer = "words"
dataset = "pairs"
eval_dataset = "pairs"
settings = { steps = 12, window = 128, rows = 3, learning_rate = 3e-3, checkpoint_every = 5 }
[recipes.rate]
recipe = "reward"
model = "tiny"
tokenizer = "words"
dataset = "rated"
eval_dataset = "rated"
settings = { levels = 3, steps = 30, window = 64, rows = 3, learning_rate = 3e-3 }
"""
reward = rooms.load(rooms.stock("recipes") / "reward.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return with_data(tmp_path / "ws")


def with_data(root: Path) -> Path:
    with_base(root)
    pairs = [{"prompt": f"{n}?", "chosen": str(n + 1), "rejected": "No. " * (1 + n % 3)} for n in range(24)]
    words = ("no", "maybe one", "yes one and two")
    rated = [
        {
            "messages": [
                {"role": "user", "content": f"{n}?"},
                {"role": "assistant", "content": words[n % 3]},
            ],
            "rating": n % 3,
        }
        for n in range(24)
    ]
    return declare(root, TOML, pairs=pairs, rated=rated)


def test_it_learns_to_prefer_and_loads_as_a_classifier(root: Path) -> None:
    found = trained(planned(root, "prefer"))
    assert measured_of(found.folder)[-1]["held_out_accuracy"] > 0.9
    assert steps_of(found.folder)[-1]["loss"] < math.log(2) / 2
    workspace = read(root)
    opened = open_at(workspace, f"{found.name}@10")
    for asked in (lambda: evaluate(workspace, opened), lambda: answer(opened, "7?", 3, 0.0)):
        with pytest.raises(PtwError, match="gives scores, not words"):
            asked()
    folder = found.folder / record.MODEL
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.num_labels == 1

    def score(answer: str) -> float:
        chat = [{"role": "user", "content": "7?"}, {"role": "assistant", "content": answer}]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            return model(**ids).logits.item()

    assert score("8") > score("No. No. ") + 0.5


def test_it_learns_levels(root: Path) -> None:
    found = trained(planned(root, "rate"))
    before, after = measured_of(found.folder)[0], measured_of(found.folder)[-1]
    assert after["held_out_accuracy"] > 0.9 > before["held_out_accuracy"]
    assert after["held_out_level_error"] < before["held_out_level_error"] / 2
    assert AutoModelForSequenceClassification.from_pretrained(found.folder / "model").config.num_labels == 3


def test_it_goes_on_from_a_reward_model(root: Path) -> None:
    first = trained(planned(root, "prefer"))
    text = (root / "workspace.toml").read_text()
    (root / "workspace.toml").write_text(text.replace('hf = "base"', f'hf = "{first.folder / "model"}"'))
    again = trained(planned(root, "prefer", steps=2))
    assert steps_of(again.folder)[0]["loss"] < math.log(2) / 2
    with pytest.raises(PtwError, match="it gives 1 scores of a text, and the recipe learns 3"):
        trained(planned(root, "rate"))


def test_beneath_an_adapter_the_scores_are_learnt_too(root: Path) -> None:
    found = trained(planned(root, "prefer", adapter="lora", lora_rank=4, learning_rate=1e-2))
    assert measured_of(found.folder)[-1]["held_out_accuracy"] > 0.9
    merged = AutoModelForSequenceClassification.from_pretrained(found.folder / record.MODEL)
    base = AutoModelForSequenceClassification.from_pretrained(root / "base", num_labels=1)
    theirs = peft.PeftModel.from_pretrained(base, found.folder / record.ADAPTER)
    ids = torch.randint(5, 300, (1, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(ids).logits, merged.eval()(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_workers_score_as_one_does(root: Path) -> None:
    one = steps_of(trained(planned(with_data(root.parent / "other"), "prefer", steps=4)).folder)
    plan = planned(root, "prefer", steps=4)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert [line["loss"] for line in steps_of(plan.run_folder())] == pytest.approx(
        [line["loss"] for line in one], rel=1e-5
    )


def test_ratings_that_are_no_levels_and_data_that_do_not_fit_are_refused(root: Path) -> None:
    with pytest.raises(
        PtwError, match=r"levels = None: it learns from datasets of format preference, and rated"
    ):
        trained(planned(root, "rate", levels="none"))
    with pytest.raises(PtwError, match=r"levels = 3: it learns from datasets of format rated, and pairs"):
        trained(planned(root, "prefer", levels=3))
    with pytest.raises(PtwError, match=r"data/rated\.jsonl:\d+: rating 2: with levels = 2 it must be"):
        trained(planned(root, "rate", levels=2))
    with pytest.raises(PtwError, match=r"center = 0\.1: it has an effect with levels = None only"):
        trained(planned(root, "rate", center=0.1))
    (root / "data" / "rated.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    with pytest.raises(PtwError, match=r"data/rated\.jsonl:1: a rated row needs `rating`, a number"):
        trained(planned(root, "rate"))


def test_the_losses_are_the_papers() -> None:
    scores = torch.randn(40, 2, dtype=torch.float64)
    said = reward.preferred(scores, 0.01)
    wanted = -torch.log(torch.sigmoid(scores[:, 0] - scores[:, 1])) + 0.01 * scores.sum(-1) ** 2
    torch.testing.assert_close(said["loss"], wanted)
    levels = torch.randint(0, 5, (40,))
    rated = reward.rated(torch.nn.functional.one_hot(levels, 5).double() * 50, levels)
    assert rated["accuracy"].min() == 1
    assert rated["level_error"].max() < 1e-9
    assert rated["loss"].max() < 1e-9


def test_a_worker_without_a_row_has_levels_of_none() -> None:
    """Of an empty list torch makes floats, of which there is no cross entropy."""
    batch = forward_of([empty(8)], torch.device("cpu"))
    assert scored.levels_of(batch, 5).dtype == torch.int64
