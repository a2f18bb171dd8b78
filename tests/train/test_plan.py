"""What a plan says, and what the FLOPs and the schedule of a run are."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ptw.cli import cli
from ptw.errors import PtwError
from ptw.train.facts import digests_of
from ptw.train.optimize import Schedule
from ptw.train.plan import Plan, demand_sense, describe, differences, resolve
from ptw.workspace.manifest import read
from tests.train.conftest import with_codes


def test_a_plan_is_json_both_ways(root: Path) -> None:
    plan = resolve(read(root), "chat", {"learning_rate": "0.5"})
    again = Plan.from_json(json.loads(json.dumps(plan.as_json())))
    assert again == plan
    assert again.settings["learning_rate"] == 0.5
    assert set(again.datasets) == {"chats"}


def test_a_plan_of_a_mix_holds_its_parts(root: Path) -> None:
    plan = resolve(read(root), "mixed", {})
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan
    assert {"dataset chats", "dataset texts"} <= digests_of(plan).keys()
    text = describe(plan)
    for part in ("blend: a mix", "0.75", "texts.jsonl", "chats.jsonl"):
        assert part in text
    toml = (root / "workspace.toml").read_text().replace("texts = 0.25", "texts = 0.5")
    (root / "workspace.toml").write_text(toml)
    assert any("datasets.blend.mix" in text for text in differences(plan, resolve(read(root), "mixed", {})))


def test_a_dry_run_tells_all(root: Path) -> None:
    text = describe(resolve(read(root), "chat", {"steps": "7"}))
    for part in ("sft", "tiny", "chats.jsonl", "this machine", "learning_rate", "7  (--set)", "runs"):
        assert part in text
    assert not (root / "runs").exists()


def test_a_dry_run_refuses_a_value_that_cannot_be(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demand_sense(resolve(read(root), "chat", {}))
    with pytest.raises(PtwError, match=r"settings: rows = 0: it must be 1 or more"):
        demand_sense(resolve(read(root), "chat", {"rows": "0"}))
    monkeypatch.chdir(root)
    done = CliRunner().invoke(cli, ["train", "chat", "--dry-run", "--set", "clip_norm=-1"])
    assert done.exit_code == 1
    assert not done.stdout


def test_codes_that_were_built_otherwise_are_refused_unless_they_are_named(root: Path) -> None:
    codes = '[semantic_ids.coded]\nitems = "data/items.jsonl"\n[tokenizers.words]\nsemantic_ids = "coded"\n'
    toml = root / "workspace.toml"
    toml.write_text(toml.read_text().replace("[tokenizers.words]\n", codes))
    with_codes(root, "coded", [[0], [1]], items=["item0", "item1"], size=2, file="data/items.jsonl")
    facts = root / "semantic_ids" / "coded" / "0001" / "vocabulary.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"declared": {"codebook_size": 2}}))
    with pytest.raises(PtwError, match="codebook_size = 256, but version 1 was built with 2: put it"):
        resolve(read(root), "chat", {})
    toml.write_text(toml.read_text().replace("[semantic_ids.coded]\n", "[semantic_ids.coded]\nversion = 1\n"))
    assert resolve(read(root), "chat", {}).semantic_ids["coded"].version == 1


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("nxt", {}, "no recipe named 'nxt'; did you mean 'next'"),
        ("next", {"stepz": "3"}, "--set stepz=3: .* did you mean 'steps'"),
        ("next", {"steps": "many"}, "--set steps=many: it must be an integer"),
    ],
)
def test_what_is_not_there_is_refused(root: Path, name: str, overrides: dict[str, str], message: str) -> None:
    with pytest.raises(PtwError, match=message):
        resolve(read(root), name, overrides)


def test_differences_name_what_changed_and_let_workers_change(root: Path) -> None:
    old = resolve(read(root), "next", {})
    assert differences(old, resolve(read(root), "next", {"steps": "3"})) == ["settings.steps: 30 -> 3"]
    text = (
        (root / "workspace.toml")
        .read_text()
        .replace('dataset = "views"\n[recipes.next.', 'dataset = "views"\ncluster = "pair"\n[recipes.next.')
    )
    (root / "workspace.toml").write_text(text)
    new = resolve(read(root), "next", {})
    assert new.cluster.workers == 2
    assert differences(old, new) == []


def test_a_schedule_rises_and_falls() -> None:
    schedule = Schedule(1.0, "cosine", warmup=4)
    rates = [schedule.at(step, 20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.02)
    assert Schedule(1.0, "linear", 0).at(20, 20) == 0
    assert Schedule(1.0, "constant", 0).at(10**6, None) == 1


def test_a_workspace_may_move_before_its_run_goes_on(root: Path) -> None:
    old = resolve(read(root), "next", {})
    moved = root.rename(root.with_name("elsewhere"))
    assert differences(old, resolve(read(moved), "next", {})) == []
