"""One of a catalogue's items, any of several labels, or numbers: learnt, exported, measured, asked."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ptw.errors import PtwError
from ptw.evals.answer import answer
from ptw.runs import record
from ptw.runs.open import open_named
from ptw.workspace import rooms
from ptw.workspace.check import problems
from ptw.workspace.manifest import read
from tests.train.conftest import declare, measured_of, planned, trained
from tests.train.test_adapted import with_base

# peft still asks transformers by old names
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOML = """
[datasets.named]
source = "data/named.jsonl"
format = "labelled"
[datasets.tagged]
source = "data/tagged.jsonl"
format = "labelled"
[datasets.counted]
source = "data/counted.jsonl"
format = "labelled"
[recipes.item]
recipe = "classify"
model = "tiny"
tokenizer = "words"
dataset = "named"
eval_dataset = "named"
[recipes.item.settings]
head = "items"
catalogue = "data/things.jsonl"
steps = 20
window = 64
rows = 3
learning_rate = 1e-2
checkpoint_every = 5
[recipes.tags]
recipe = "classify"
model = "tiny"
tokenizer = "words"
dataset = "tagged"
eval_dataset = "tagged"
[recipes.tags.settings]
head = "labels"
labels = ["even", "of three", "big"]
steps = 20
window = 64
rows = 3
learning_rate = 1e-2
[recipes.number]
recipe = "classify"
model = "tiny"
tokenizer = "words"
dataset = "counted"
eval_dataset = "counted"
settings = { head = "number", steps = 20, window = 64, rows = 3, learning_rate = 1e-2 }
"""
WORDS = ("rain", "snow", "sun", "wind")
LIMIT = 1e-5
classify = rooms.load(rooms.stock("recipes") / "classify.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return with_data(tmp_path / "ws")


def with_data(root: Path, **base: Any) -> Path:
    with_base(root, **base)
    things = [{"id": f"t{n}", "kind": "wet" if n < 2 else "dry"} for n in range(4)]
    named = [{"text": f"{WORDS[n % 4]} {n}", "label": f"t{n % 4}"} for n in range(32)]
    tagged = [
        {
            "messages": [{"role": "user", "content": f"{n} {WORDS[n % 4]}"}],
            "labels": [name for name, has in (("even", n % 2 == 0), ("of three", n % 3 == 0)) if has],
        }
        for n in range(30)
    ]
    counted = [{"text": " ".join([WORDS[n % 4]] * (1 + n % 5)), "number": n % 5} for n in range(30)]
    return declare(root, TOML, things=things, named=named, tagged=tagged, counted=counted)


def of_transformers(folder: Path, texts: Sequence[str | list[dict[str, str]]]) -> torch.Tensor:
    """What plain transformers says of texts or chats, as a padded batch."""
    model, report = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if isinstance(texts[0], str):
        given = tokenizer(list(texts), return_tensors="pt", padding=True)
    else:
        given = tokenizer.apply_chat_template(
            list(texts), return_tensors="pt", return_dict=True, padding=True
        )
    given.pop("token_type_ids", None)
    with torch.no_grad():
        return model.eval()(**given).logits


def test_items_are_learnt_and_the_export_is_transformers_classifier(root: Path) -> None:
    assert not problems(root)
    found = trained(planned(root, "item"))
    before, after = measured_of(found.folder)[0], measured_of(found.folder)[-1]
    assert after["held_out_recall@1"] > 0.9 > before["held_out_recall@1"]
    assert after["held_out_mrr"] > 0.9
    assert before["held_out_loss"] == pytest.approx(math.log(4), rel=0.1)
    config = json.loads((found.folder / record.MODEL / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    assert config["id2label"] == {"0": "t0", "1": "t1", "2": "t2", "3": "t3"}
    said = of_transformers(found.folder / record.MODEL, ["snow 9", "rain 4", "wind"])
    assert said.argmax(-1).tolist() == [1, 0, 3]
    opened = open_named(read(root), found.name)
    with pytest.raises(PtwError, match="not words"):
        answer(opened, "snow", 3, 0.0)
