"""A model is asked with what is known before an item, and never sees what is known after it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from ptw.cli import cli
from ptw.data.render import render
from ptw.errors import PtwError
from ptw.evals.cases import Case, cases, catalogue_of
from ptw.evals.next_items import Request, next_items
from ptw.evals.ranker import model_ranked
from ptw.files.read import Row
from ptw.nn.layout import Layout
from ptw.runs.open import Opened, open_named
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import read
from tests.train.conftest import declare, make_workspace, planned, trained, with_codes

TABLES = """
[semantic_ids.titles]
items = "data/titles.jsonl"
levels = 2
codebook_size = 8
[datasets.seen]
source = "data/seen.jsonl"
format = "event"
leave_out = 2
too_long = "truncate"
"""
TOKENIZER = """
[tokenizers.{name}]
{items}
merges = 12
merges_from = "seen"
[tokenizers.{name}.fields.device]
values = ["tv", "phone"]
known = "before"
[tokenizers.{name}.fields.hour]
part = "hour"
key = "at"
known = "before"
[tokenizers.{name}.fields.since]
part = "gap"
bounds = [3600, 7200]
key = "at"
known = "before"
[tokenizers.{name}.fields.seconds]
bounds = [60, 600]
known = "after"
[tokenizers.{name}.fields.action]
values = ["play", "like"]
known = "after"
[recipes.with-{name}]
recipe = "pretrain"
model = "tiny"
tokenizer = "{name}"
dataset = "seen"
settings = {{ steps = 20, window = 128, rows = 4, learning_rate = 1e-2, eval_every = 10, eval_sequences = 8 }}
"""
KINDS = ("events", "codes")


def seen_rows() -> list[dict[str, Any]]:
    """On a TV are seen the first fifteen items, on a phone the others."""
    draw, rows = random.Random(0), []
    for member in range(40):
        length = draw.randint(4, 12)
        devices = draw.choices(["tv", "phone"], k=length)
        items = [f"item{draw.randrange(15) + (15 if device == 'phone' else 0)}" for device in devices]
        at = [1_700_000_000 + 3600 * (hour + member) for hour in sorted(draw.choices(range(90), k=length))]
        seconds, action = draw.choices([5, 90, 900], k=length), draw.choices(["play", "like"], k=length)
        rows.append({"id": f"m{member}", "items": items, "device": devices, "at": at} | {"seconds": seconds})
        rows[-1]["action"] = action
    return rows


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models over a token for each of 30 items, and over codes, both with fields."""
    titles = [{"id": f"item{n}"} for n in range(30)]
    root = make_workspace(tmp_path_factory.mktemp("fields") / "ws")
    declare(root, TABLES, titles=titles, seen=seen_rows())
    for name, items in zip(KINDS, ('items = "data/items.jsonl"', 'semantic_ids = "titles"'), strict=True):
        declare(root, TOKENIZER.format(name=name, items=items))
    codes, names = [[n % 7, n // 7] for n in range(30)], [title["id"] for title in titles]
    with_codes(root, "titles", codes, items=names, size=8, file="data/titles.jsonl")
    for name in KINDS:
        trained(planned(root, f"with-{name}"))
    return root


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, root: Path) -> Opened:
    return open_named(read(root), f"with-{request.param}")


def tokenizer_of(opened: Opened) -> Tokenizer:
    assert opened.tokenizer is not None
    return opened.tokenizer


def cases_of(
    root: Path, tokenizer: Tokenizer, split: Any = "test", window: int = 128, **how: Any
) -> list[Case]:
    entry = read(root).datasets["seen"]
    return list(cases(root, entry, tokenizer, catalogue_of(tokenizer), split, window, **how))


@torch.no_grad()
def logits(opened: Opened, ids: list[int]) -> torch.Tensor:
    module = opened.loaded.module.eval()
    hidden_BTD = module(torch.tensor([ids]), Layout.of_documents([[len(ids)]]))
    found: torch.Tensor = module.head().logits(hidden_BTD)[0]  # type: ignore[operator]
    return found


def test_what_is_known_after_an_event_moves_no_logit_up_to_its_item(opened: Opened, root: Path) -> None:
    tokenizer, entry = tokenizer_of(opened), read(root).datasets["seen"]
    row = seen_rows()[3]
    ids = render(Row("a", row), entry, tokenizer).ids.tolist()
    events = tokenizer.events(row["items"], row, len(row["items"]) - 2)
    before = logits(opened, ids)
    moved = 0
    for at, event in enumerate(events):
        for key, value in (("seconds", None), ("seconds", 61), ("action", None)):
            changed = {**row, key: [*row[key][:at], value, *row[key][at + 1 :]]}
            other = render(Row("a", changed), entry, tokenizer).ids.tolist()
            end = 1 + sum(len(one.ids) for one in events[:at]) + len(event.before) + len(event.item)
            assert other[:end] == ids[:end]
            after = logits(opened, other)
            assert torch.equal(after[: end - 1], before[: end - 1]), "up to the one that predicts its last id"
            moved += other != ids and not torch.equal(after[end:], before[end : len(after)])
    assert moved, "later ones do learn of it"


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("window", [128, 20])
def test_the_input_has_what_is_known_before_the_target_and_no_more(
    opened: Opened, root: Path, split: str, window: int
) -> None:
    tokenizer, back = tokenizer_of(opened), 1 if split == "test" else 2
    found = cases_of(root, tokenizer, split, window)
    assert len(found) == 40
    for row, case in zip(seen_rows(), found, strict=True):
        ids, at = case.input.ids.tolist(), len(row["items"]) - back
        assert len(ids) + tokenizer.item_length - 1 <= window
        *_, asked = told = tokenizer.told(ids)
        assert asked.keys() == {"device", "hour", "since"}, "neither its item nor what is known after it"
        assert asked["device"] == row["device"][at]
        assert [one["device"] for one in told] == row["device"][at + 1 - len(told) : at + 1]
        assert all("action" in one for one in told[:-1])
        assert window == 20 or len(told) == at + 1
        own = set(tokenizer.item_ids([row["items"][at]]))
        assert not own & set(ids[len(ids) - len(tokenizer.events(row["items"], row)[at].before) :])


def test_no_figure_depends_on_what_is_known_after_the_target(
    opened: Opened, root: Path, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(opened)

    def ranked(folder: Path) -> Any:
        found = cases_of(folder, tokenizer)
        catalogue = catalogue_of(tokenizer)
        arguments = (opened.loaded.module, found, catalogue, tokenizer, 128, torch.device("cpu"))
        return [case.input.ids.tolist() for case in found], model_ranked(*arguments, top=5)

    rows = seen_rows()
    (tmp_path / "data").mkdir()
    (tmp_path / "workspace.toml").write_text((root / "workspace.toml").read_text())

    def written(change: Callable[[dict[str, Any]], None]) -> Any:
        for row in rows:
            change(row)
        (tmp_path / "data" / "seen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        entry = read(root).datasets["seen"]
        found = list(cases(tmp_path, entry, tokenizer, catalogue_of(tokenizer), "test", 128))
        arguments = (
            opened.loaded.module,
            found,
            catalogue_of(tokenizer),
            tokenizer,
            128,
            torch.device("cpu"),
        )
        return [case.input.ids.tolist() for case in found], model_ranked(*arguments, top=5)

    plain = ranked(root)
    assert written(lambda row: row["seconds"].__setitem__(-1, 61)) == plain
    assert written(lambda row: row["action"].__setitem__(-1, None)) == plain
    assert written(lambda row: row["action"].__setitem__(-2, None)) != plain
    assert written(lambda row: row["device"].__setitem__(-1, None)) != plain


def test_a_key_that_fields_are_read_from_is_the_targets(opened: Opened, root: Path) -> None:
    found = cases_of(root, tokenizer_of(opened), about=("device", "seconds", "id"))
    for row, case in zip(seen_rows(), found, strict=True):
        assert case.about == {key: row[key][-1] for key in ("device", "seconds")} | {"id": row["id"]}


def test_a_window_without_room_is_told(opened: Opened, root: Path) -> None:
    with pytest.raises(
        PtwError, match=r"seen\.jsonl:1: a window of 2 has no room for an item and its fields"
    ):
        cases_of(root, tokenizer_of(opened), window=2)


def test_what_is_recommended_is_for_the_moment_that_it_is_asked_in(opened: Opened, root: Path) -> None:
    def found(**now: str) -> list[Any]:
        return next_items(read(root), opened, Request(("item3", "item20"), now=now, top=30)).recommended

    def items(**now: str) -> list[str]:
        return [one.item for one in found(**now)]

    assert (
        sorted(items(device="tv"))
        == sorted(items())
        == sorted({f"item{n}" for n in range(30)} - {"item3", "item20"})
    )
    assert items(device="tv") != items(device="phone")
    assert items(device="tv", at="2026-11-22T20:15:00") == items(device="tv", at="1700683200")
    assert found(at="1700683200") != found()


def test_the_question_is_the_sequence_that_training_had(
    opened: Opened, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, asked = tokenizer_of(opened), list[list[int]]()
    monkeypatch.setattr(
        "ptw.evals.next_items._scores", lambda *a: asked.append(a[3]) or torch.zeros(len(a[2].names))
    )
    monkeypatch.setattr(
        "ptw.evals.next_items.Generator.likeliest",
        lambda self, prompts, allowed: (asked.append(prompts[0]), (torch.zeros(1, 0), torch.zeros(1, 0)))[1],
    )
    next_items(read(root), opened, Request(("item3",), now={"device": "tv"}))
    unknown = dict.fromkeys(["device", "hour", "since"])
    assert tokenizer.told(asked[0]) == [
        {**unknown, "seconds": None, "action": None},
        {**unknown, "device": "tv"},
    ]
    assert asked[0][0] == tokenizer.bos_id
    row = json.loads((root / "data" / "seen.jsonl").read_text().splitlines()[4])
    next_items(read(root), opened, Request(member=str(row["id"]), now={"device": "tv"}))
    *before, last = tokenizer.told(asked[-1])
    newest = row["device"][-len(before) :]
    assert [event["device"] for event in before] == newest
    assert last == {**unknown, "device": "tv"}


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"seconds": "3"}, "--now seconds: events of with-.*-001 have it only once they are over"),
        ({"devise": "tv"}, "--now devise: events of with-.*-001 have no such field; did you mean 'device'"),
        (
            {"device": "car"},
            r"`device` of event 2 is 'car': none of the values of field device \(tv, phone\)",
        ),
        ({"at": "noon"}, "`at` of event 2 is 'noon': it must be a time"),
    ],
)
def test_what_a_request_cannot_bring_is_told(
    opened: Opened, root: Path, now: dict[str, str], words: str
) -> None:
    with pytest.raises(PtwError, match=words):
        next_items(read(root), opened, Request(("item3",), now=now))


def test_the_commands(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)

    def ptw(*arguments: str) -> str:
        found = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.stdout

    now = ptw("recommend", "with-events", "item1", "--now", "device=tv", "--now", "at=2026-11-22T20:15:00Z")
    assert len(now.splitlines()) == 10
    told = json.loads(ptw("eval", "with-codes", "--slice", "device", "--json"))
    assert told["sequences"] == 40
    assert {one["value"] for one in told["slices"] if one["key"] == "device"} == {"tv", "phone"}
    for wrong in (["--now", "device"], ["--now", "device=tv", "--now", "device=phone"]):
        assert CliRunner().invoke(cli, ["recommend", "with-events", "item1", *wrong]).exit_code == 2
    assert CliRunner().invoke(cli, ["recommend", "chat", "--prompt", "x", "--now", "a=b"]).exit_code == 2
