"""One of a catalogue's items, any of several labels, or numbers: learnt, exported, measured, asked."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ptw.errors import PtwError
from ptw.evals import asked
from ptw.evals.answer import answer
from ptw.evals.classes import Classes
from ptw.evals.next_items import Request, next_items
from ptw.runs import record
from ptw.runs.open import Opened, open_named
from ptw.tokens.closing import closing
from ptw.tokens.tokenizer import Tokenizer
from ptw.train.moment import open_at
from ptw.train.plan import demand_sense
from ptw.workspace.check import problems
from ptw.workspace.manifest import read
from tests.train.conftest import curve_of, declare, measured_of, planned, steps_of, together, trained
from tests.train.test_adapted import with_base

# peft still asks transformers by old names
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOML = """
[models.scratch.config]
model_type = "llama"
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 128
tie_word_embeddings = TIED
[recipes.views]
recipe = "pretrain"
model = "scratch"
tokenizer = "items"
dataset = "views"
settings = { steps = 8, window = 32, rows = 4, learning_rate = 1e-2, checkpoint_every = 4 }
[recipes.scratch-item]
recipe = "classify"
model = "scratch"
tokenizer = "words"
dataset = "named"
eval_dataset = "named"
[recipes.scratch-item.settings]
head = "items"
catalogue = "data/things.jsonl"
steps = 30
window = 64
rows = 3
learning_rate = 1e-2
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
DATA = {"items": "named", "labels": "tagged", "number": "counted"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return with_data(tmp_path / "ws")


def with_data(root: Path, tied: bool = True, **base: Any) -> Path:
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
    return declare(
        root,
        TOML.replace("TIED", str(tied).lower()),
        things=things,
        named=named,
        tagged=tagged,
        counted=counted,
    )


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
    workspace = read(root)
    opened = open_named(workspace, found.name)
    texts = ["snow 9", "rain 4 4 4", "wind"]
    theirs = of_transformers(found.folder / record.MODEL, texts).log_softmax(-1)
    assert theirs.argmax(-1).tolist() == [1, 0, 3]
    torch.testing.assert_close(asked_of(root, opened, texts), theirs, rtol=0, atol=LIMIT)
    with pytest.raises(PtwError, match=r"not words: `ptw recommend item-001 --prompt TEXT` asks it"):
        answer(opened, "snow", 3, 0.0)


def asked_of(root: Path, opened: Opened, texts: Sequence[str]) -> torch.Tensor:
    """(texts, names) of what ptw says, in the order of the names."""
    classes = Classes.stored(opened.loaded.hf_config)
    assert classes is not None
    found = []
    for text in texts:
        if classes.problem == "single_label_classification":
            items = next_items(read(root), opened, Request(prompt=text)).recommended
            said = {one.item: one.log_probability for one in items}
        else:
            said = {one.name: one.value for one in asked.said(read(root), opened, classes, text, 10)}
        found.append([said[name] for name in classes.names])
    return torch.tensor(found, dtype=torch.float32)


def test_labels_of_chats_are_learnt_and_the_export_is_transformers_classifier(root: Path) -> None:
    found = trained(planned(root, "tags", steps=60))
    before, after = measured_of(found.folder)[0], measured_of(found.folder)[-1]
    assert after["held_out_loss"] < before["held_out_loss"] / 2
    assert after["held_out_sample_f1"] > 0.7 > before["held_out_sample_f1"]
    config = json.loads((found.folder / record.MODEL / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert list(config["id2label"].values()) == ["even", "of three", "big"]
    texts = ["6 sun", "7 wind", "12 rain"]
    chats = [[{"role": "user", "content": text}] for text in texts]
    theirs = of_transformers(found.folder / record.MODEL, chats).sigmoid()
    ours = asked_of(root, open_named(read(root), found.name), texts)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=LIMIT)


def test_numbers_are_learnt_one_or_several(root: Path) -> None:
    found = trained(planned(root, "number", steps=60))
    assert (
        measured_of(found.folder)[-1]["held_out_loss"] < 0.5 < measured_of(found.folder)[0]["held_out_loss"]
    )
    texts = ["rain rain", "sun sun sun sun"]
    theirs = of_transformers(found.folder / record.MODEL, texts)
    ours = asked_of(root, open_named(read(root), found.name), texts)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=LIMIT)
    rows = [{"text": f"{n} rain", "number": {"size": n % 3, "age": -1}} for n in range(12)]
    (root / "data" / "counted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    several = trained(planned(root, "number", steps=3, labels="age,size"))
    config = json.loads((several.folder / record.MODEL / "config.json").read_text())
    assert config["id2label"] == {"0": "age", "1": "size"}


@pytest.mark.parametrize("head", ["items", "labels", "number"])
def test_the_losses_are_transformers_own(root: Path, head: str) -> None:
    """The mean over the rows of a step is the loss of its class on the same rows."""
    recipe = {"items": "item", "labels": "tags", "number": "number"}[head]
    found = trained(planned(root, recipe, steps=2, rows=20, epochs=1, weight_decay=0, learning_rate=0))
    rows = [json.loads(line) for line in (root / "data" / f"{DATA[head]}.jsonl").read_text().splitlines()]
    model = AutoModelForSequenceClassification.from_pretrained(found.folder / record.MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(found.folder / record.MODEL)
    names = [name for _, name in sorted(model.config.id2label.items())]
    targets = {
        "items": lambda row: torch.tensor([names.index(row["label"])]),
        "labels": lambda row: torch.tensor([[float(name in row["labels"]) for name in names]]),
        "number": lambda row: torch.tensor([float(row["number"])]),
    }
    losses = []
    for row in rows:
        if "text" in row:
            given = tokenizer(row["text"], return_tensors="pt")
        else:
            given = tokenizer.apply_chat_template(row["messages"], return_tensors="pt", return_dict=True)
        with torch.no_grad():
            losses.append(model(given["input_ids"], labels=targets[head](row)).loss.item())
    measured = measured_of(found.folder)[0]["held_out_loss"]
    assert measured == pytest.approx(sum(losses) / len(losses), abs=LIMIT)


def test_passes_of_one_row_or_of_many_are_the_same_step(root: Path) -> None:
    packed, alone = (
        steps_of(trained(planned(root, "item", steps=4, rows=64, rows_at_once=at_once)).folder)
        for at_once in (64, 1)
    )
    for one, other in zip(packed, alone, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=LIMIT)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)


def test_a_text_that_ends_with_the_id_that_pads_is_pooled_where_transformers_does(root: Path) -> None:
    found = trained(planned(root, "item"))
    folder = found.folder / record.MODEL
    opened = open_named(read(root), found.name)
    assert opened.tokenizer is not None
    ended = opened.tokenizer.hf
    ended.pad_token = ended.eos_token  # as many tokenizers have it
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": ended.pad_token_id}))
    opened = dataclasses.replace(opened, tokenizer=Tokenizer(ended, "words"))
    closing(opened.tokenizer).save(folder)
    texts = ["snow 9", "rain 4 4 4", "wind"]
    theirs = of_transformers(folder, texts).log_softmax(-1)
    torch.testing.assert_close(asked_of(root, opened, texts), theirs, rtol=0, atol=LIMIT)


def test_a_sampled_softmax_learns_as_the_full_one_does(root: Path) -> None:
    full = trained(planned(root, "item", steps=6))
    all_drawn = trained(planned(root, "item", steps=6, sampled=4))
    assert losses_of(all_drawn) == pytest.approx(losses_of(full), rel=1e-5)
    part = trained(planned(root, "item", sampled=2, sampled_by="popularity"))
    assert measured_of(part.folder)[-1]["held_out_recall@1"] > 0.9
    assert measured_of(part.folder)[0] == measured_of(full.folder)[0]  # what is held out is held against all
    with pytest.raises(PtwError, match="sampled = 5: there are 4 classes"):
        trained(planned(root, "item", sampled=5))


def losses_of(found: record.RunRecord) -> list[float]:
    return [line["loss"] for line in steps_of(found.folder)]


@pytest.mark.parametrize("tied", [True, False])
def test_pretraining_on_items_samples_too(root: Path, tied: bool, tmp_path: Path) -> None:
    place = with_data(tmp_path / "other", tied)
    sizes = {"sampled": 10, "sampled_by": "popularity"}
    full = trained(planned(place, "views"))
    every = trained(planned(place, "views", sampled=33))
    assert losses_of(every) == pytest.approx(losses_of(full), rel=1e-4)
    part = trained(planned(place, "views", **sizes))
    again = trained(planned(place, "views", rows_at_once=1, **sizes))
    assert losses_of(again) == pytest.approx(losses_of(part), rel=1e-4)  # all passes have the same drawn
    assert losses_of(part) != pytest.approx(losses_of(full), rel=1e-3)
    assert steps_of(part.folder)[0]["flops"] < steps_of(full.folder)[0]["flops"]
    with pytest.raises(PtwError, match=r"z_loss = 0\.1: it has an effect with sampled = None only"):
        demand_sense(planned(place, "views", sampled=10, z_loss=0.1))


def test_a_run_that_goes_on_is_the_one_that_was_not_stopped(root: Path) -> None:
    settings = {"sampled": 2, "sampled_by": "popularity", "steps": 10}
    whole = trained(planned(root, "item", **settings))
    plan = planned(root, "item", **settings)
    assert trained(plan, lambda: len(steps_of(plan.run_folder())) >= 6).state == "stopped"
    record.change(plan.run_folder(), state="running")
    on = trained(plan)
    assert curve_of(on.folder) == curve_of(whole.folder)
    at = open_at(read(root), f"{on.name}@7")
    assert Classes.stored(at.loaded.hf_config) == Classes(
        ("t0", "t1", "t2", "t3"), "single_label_classification"
    )


@pytest.mark.parametrize("settings", [{}, {"sampled": 3}, {"head": "labels"}])
def test_it_learns_in_bf16(root: Path, settings: dict[str, Any]) -> None:
    if "head" in settings:
        found = trained(planned(root, "tags", precision="bf16"))
    else:
        found = trained(planned(root, "item", precision="bf16", **settings))
    before, *_, after = measured_of(found.folder)
    assert after["held_out_loss"] < before["held_out_loss"] * 0.9


def test_beneath_an_adapter_peft_has_the_head_too(root: Path) -> None:
    lora = {"adapter": "lora", "lora_rank": 4, "learning_rate": 1e-2}
    found = trained(planned(root, "item", **lora))
    assert measured_of(found.folder)[-1]["held_out_recall@1"] > 0.9
    values = json.loads((found.folder / record.ADAPTER / "adapter_config.json").read_text())
    assert values["modules_to_save"] == ["score"]
    assert values["task_type"] == "SEQ_CLS"
    base = AutoModelForSequenceClassification.from_pretrained(root / "base", num_labels=4)
    theirs = PeftModel.from_pretrained(base, found.folder / record.ADAPTER).eval()
    ids = torch.randint(5, 300, (1, 20), generator=torch.Generator().manual_seed(1))
    merged = AutoModelForSequenceClassification.from_pretrained(found.folder / record.MODEL).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, merged(ids).logits, rtol=0, atol=LIMIT)


def test_without_a_port_hugging_faces_class_learns_the_same(root: Path, tmp_path: Path) -> None:
    ours = trained(planned(root, "tags", steps=5))
    place = with_data(tmp_path / "hf", port="hf")
    theirs = trained(planned(place, "tags", steps=5))
    assert losses_of(theirs) == pytest.approx(losses_of(ours), rel=1e-4)
    chats = [[{"role": "user", "content": text}] for text in ("6 sun", "7 wind")]
    torch.testing.assert_close(
        of_transformers(theirs.folder / record.MODEL, chats),
        of_transformers(ours.folder / record.MODEL, chats),
        rtol=0,
        atol=1e-3,
    )


def test_a_shape_learns_from_nothing_and_another_head_is_refused(root: Path) -> None:
    text = (root / "workspace.toml").read_text()
    found = trained(planned(root, "scratch-item"))
    assert measured_of(found.folder)[-1]["held_out_recall@1"] > 0.9
    folder = found.folder / record.MODEL
    (root / "workspace.toml").write_text(text.replace('hf = "base"', f'hf = "{folder}"'))
    (root / "data" / "things.jsonl").write_text(
        "".join(json.dumps({"id": f"t{n}"}) + "\n" for n in (1, 0, 2, 3))
    )
    with pytest.raises(PtwError, match="its label 0 is 't0', and the recipe's is 't1'"):
        trained(planned(root, "item"))
    with pytest.raises(PtwError, match=r"single_label_classification, and the recipe's of multi_label"):
        trained(planned(root, "tags", labels="even,of three,big,small"))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "sampled"), [("item", 2), ("views", 10)])
def test_two_workers_learn_as_one_does(root: Path, recipe: str, sampled: int) -> None:
    settings = {"sampled": sampled, "sampled_by": "popularity", "steps": 4}
    one = trained(planned(with_data(root.parent / "other"), recipe, **settings))
    plan = planned(root, recipe, **settings)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert [line["loss"] for line in steps_of(plan.run_folder())] == pytest.approx(losses_of(one), rel=1e-5)


WRONG = {
    "an unknown label": (
        {"text": "a b", "label": "t9"},
        "named.jsonl:33: 't9' is no label here; known labels: t0",
    ),
    "no label": ({"text": "a b"}, "it has no label; a labelled row has"),
    "two labels": ({"text": "a b", "label": "t1", "number": 1}, "it has `label` and `number`"),
    "another kind": ({"text": "a b", "number": 1}, "its label is 1.0, and this head learns from `label`"),
    "no text": ({"label": "t1"}, "it has neither of `text` and `messages`"),
    "an empty text": ({"text": " ", "label": "t1"}, "`text` is ' ': it must be a text that is not empty"),
    "no name": ({"text": "a b", "label": True}, "`label` is True"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_row_that_says_something_else_is_named(root: Path, name: str) -> None:
    row, said = WRONG[name]
    with (root / "data" / "named.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(PtwError, match=re.escape(said)) as error:
        trained(planned(root, "item"))
    assert "named.jsonl:33" in str(error.value)


SETTINGS = {
    "nothing to choose from": ({"catalogue": "none"}, "head = items: it needs catalogue ="),
    "a catalogue and labels": ({"labels": "a,b"}, "labels names them already"),
    "a catalogue of numbers": ({"head": "number"}, "numbers are named by labels"),
    "a sample of labels": (
        {"head": "labels", "sampled": 2},
        'sampled = 2: it has an effect with head = "items" only',
    ),
    "popularity alone": ({"sampled_by": "popularity"}, "it has an effect with sampled only"),
    "twice": ({"catalogue": "none", "labels": "a,a"}, "a name stands twice"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_cannot_be_are_refused_before_a_run(root: Path, name: str) -> None:
    settings, said = SETTINGS[name]
    with pytest.raises(PtwError, match=said):
        demand_sense(planned(root, "item", **settings))


def test_a_catalogue_says_each_id_once(root: Path) -> None:
    (root / "data" / "things.jsonl").write_text('{"id": "t0"}\n{"id": "t0"}\n')
    with pytest.raises(PtwError, match=r"things\.jsonl:2: id 't0' stands twice"):
        trained(planned(root, "item"))
    (root / "data" / "things.jsonl").unlink()
    assert any("there is no such file" in problem.message for problem in problems(root))
