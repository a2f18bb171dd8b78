"""Runs over events with fields: models grow rows for them, and refuse others than they learnt."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ptw.errors import PtwError
from ptw.runs import record
from ptw.runs.open import open_named
from ptw.train.launch import begun
from ptw.train.plan import Plan, resolve
from ptw.workspace.manifest import read
from tests.train.conftest import declare, make_workspace, measured_of, planned, trained

FIELDS = """
[tokenizers.fields]
items = "data/items.jsonl"
init = "mean"
merges = 5
merges_from = "seen"
[tokenizers.fields.fields.device]
values = ["tv", "phone"]
known = "before"
[tokenizers.fields.fields.hour]
part = "hour"
key = "at"
known = "before"
[tokenizers.fields.fields.seconds]
bounds = [60, 600]
known = "after"
[datasets.seen]
source = "data/seen.jsonl"
format = "event"
leave_out = 2
[recipes.fields]
recipe = "pretrain"
model = "tiny"
tokenizer = "fields"
dataset = "seen"
settings = { steps = 4, window = 128, rows = 2, learning_rate = 1e-2, checkpoint_every = 2 }
"""
ON = """
[models.known]
hf = "{folder}"
[recipes.on]
recipe = "pretrain"
model = "known"
tokenizer = "fields"
dataset = "seen"
settings = {{ steps = 2, window = 128, rows = 2, learning_rate = 0.0 }}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make_workspace(tmp_path / "ws", recipe="pretrain")
    rows = [json.loads(line) for line in (root / "data" / "views.jsonl").read_text().splitlines()]
    return declare(root, FIELDS, seen=[with_fields(row) for row in rows])


def with_fields(row: dict[str, Any]) -> dict[str, Any]:
    count = range(len(row["items"]))
    device = [["tv", "phone", None][at % 3] for at in count]
    return row | {"device": device, "at": [3600 * (at % 2) for at in count], "seconds": [90 for _ in count]}


def edited(root: Path, old: str, new: str) -> None:
    file = root / "workspace.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def on(root: Path, recipe: str) -> Plan:
    """A plan of a recipe that begins with the model of that one's run."""
    folder = trained(planned(root, recipe, steps=3)).folder / record.MODEL
    declare(root, ON.format(folder=folder.relative_to(root)))
    return planned(root, "on")


def test_a_plan_says_which_fields_and_what_taught_the_merges(root: Path) -> None:
    plan = resolve(read(root), "fields", {})
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan
    assert list(plan.datasets) == ["seen"]
    (root / "workspace.toml").write_text(
        (root / "workspace.toml").read_text().replace('_from = "seen"', '_from = "views"')
    )
    assert set(resolve(read(root), "fields", {}).datasets) == {"seen", "views"}


def test_a_model_of_items_gets_rows_for_their_fields(root: Path) -> None:
    plan = on(root, "next")
    old = load_file(root / read(root).models["known"].hf / "model.safetensors")
    run = trained(plan)
    new = load_file(run.folder / record.MODEL / "model.safetensors")
    table = "model.embed_tokens.weight"
    count = len(old[table])
    assert len(new[table]) == 33 + 3 + 25 + 4 + 5 > count == 33
    assert (new[table][:count] == old[table]).all(), "with a learning rate of 0 they stay"
    assert {tuple(row.tolist()) for row in new[table][count:]} == {tuple(new[table][-1].tolist())}
    assert measured_of(run.folder)


def test_a_model_refuses_other_fields_than_it_learnt(root: Path) -> None:
    plan = on(root, "fields")
    trained(plan)
    edited(root, "bounds = [60, 600]", "bounds = [60, 601]")
    with pytest.raises(PtwError, match="gives other ids than model known was trained with"):
        trained(planned(root, "on"))
    edited(root, "bounds = [60, 601]", "bounds = [60, 600]\nlearn = false")
    with pytest.raises(PtwError, match="the fields device, hour, seconds there, the same fields, told apart"):
        trained(planned(root, "on"))
    edited(root, "[60, 600]\nlearn = false", "[60, 600]")
    assert open_named(read(root), "fields").tokenizer is not None


def test_a_run_goes_on_with_the_same_fields_alone(root: Path) -> None:
    found = begun(read(root), "fields", {}, resume=False)
    trained(replace(Plan.from_json(found.plan), folder=found.folder, threads=1), stopping=lambda: True)
    record.change(found.folder, state="stopped")
    assert begun(read(root), "fields", {}, resume=True).name == "fields-001"
    edited(root, 'values = ["tv", "phone"]', 'values = ["tv", "phone", "web"]')
    with pytest.raises(PtwError, match=r"tokenizer\.fields\.device\.values"):
        begun(read(root), "fields", {}, resume=True)
