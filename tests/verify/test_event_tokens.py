"""What is known only after an event is found wherever it leaks to, and is named with row, event and key."""

import json
from pathlib import Path
from typing import Any

import pytest

from ptw.runs import record
from ptw.tokens import awkward_events, fingerprint, tokenizer
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.events import Event
from ptw.tokens.fields import Fields
from ptw.tokens.tokenizer import Tokenizer
from ptw.verify.reports.report import SubjectReport
from ptw.verify.verify import Request, verify
from ptw.workspace.manifest import read

TOML = """
[workspace]
name = "catalogue"
[tokenizers.events]
items = "data/items.jsonl"
merges = 8
merges_from = "views"
[tokenizers.events.fields.device]
values = ["tv", "phone"]
known = "before"
[tokenizers.events.fields.since]
part = "gap"
bounds = [60, 3600]
key = "at"
known = "before"
[tokenizers.events.fields.seconds]
bounds = [60, 600]
known = "after"
[tokenizers.events.fields.action]
values = ["play", "like"]
known = "after"
[tokenizers.early]
items = "data/items.jsonl"
[tokenizers.early.fields.device]
values = ["tv", "phone"]
known = "before"
[datasets.views]
source = "data/views.jsonl"
format = "event"
"""
ROW = {
    "items": ["i1", "i2", "i1"],
    "device": ["tv", None, "tv"],
    "at": [1, 99, 9999],
    "seconds": [5, 5, None],
    "action": ["play", "play", "like"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name, rows in {"items": [{"id": f"i{n}"} for n in range(5)], "views": [ROW] * 3}.items():
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "workspace.toml").write_text(TOML)
    return tmp_path


def verified(root: Path, name: str = "events") -> SubjectReport:
    (report,) = verify(root, Request((name,), tokenizers=True, only=("events",), fresh=True)).tokenizers
    return report


def values_of(report: SubjectReport) -> dict[str, float]:
    return {one.metric: one.value for one in report.measured if one.verifier == "events"}


def test_a_tokenizer_with_fields_passes(root: Path) -> None:
    report = verified(root)
    assert report.passed, report.words
    assert values_of(report) == {"ids": 0, "fields": 0, "leaks": 0}
    (leaks,) = [one for one in report.measured if one.metric == "leaks"]
    assert int(leaks.case.split()[2]) > 200, "changes that were tried"
    assert values_of(verified(root, "early")) == {"ids": 0, "fields": 0}, "nothing is known after an event"


class AfterFirst(Event):
    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.before, *self.after, *self.item)


def test_a_field_that_stands_before_its_item_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "Event", AfterFirst)
    report = verified(root)
    assert not report.passed
    assert values_of(report)["leaks"] > 200
    told = [text for text in report.explained if "before the end of that event's item" in text]
    assert told
    assert "seconds of event 1: it changes id" in told[0]


def test_a_field_that_stands_in_the_next_event_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(self: Tokenizer, *given: Any) -> list[Event]:
        found = rightly(self, *given)
        late = [(), *(one.after for one in found)]
        return [Event((*one.before, *of), one.item, ()) for one, of in zip(found, late, strict=False)]

    rightly = Tokenizer.events
    monkeypatch.setattr(Tokenizer, "events", late)
    report = verified(root)
    assert not report.passed
    assert any("it changes what stands in the events after it" in text for text in report.explained)
    assert values_of(report)["fields"] > 0, "that of the last event is lost"


def test_a_field_that_colours_the_next_event_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def coloured(self: Fields, values: Any, events: int, first: int) -> Any:
        found = rightly(self, values, events, first)
        for name in ("device", "since") if len(found) == 4 else ():
            seen = [None, *found["seconds"]][: len(found[name])]
            found[name] = [
                None if one == "..60" else label for one, label in zip(seen, found[name], strict=True)
            ]
        return found

    rightly = Fields.labels
    monkeypatch.setattr(Fields, "labels", coloured)
    report = verified(root)
    assert any("it changes what stands in the events after it" in text for text in report.explained)


def test_a_merged_token_that_says_less_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rightly = Tokenizer.told
    monkeypatch.setattr(
        Tokenizer, "told", lambda self, ids: [dict.fromkeys(one) for one in rightly(self, ids)]
    )
    assert values_of(verified(root))["fields"] > 0


def test_an_export_with_other_intervals_is_named(root: Path) -> None:
    workspace = read(root)
    made = open_tokenizer(workspace, "events")
    plan = {
        "tokenizer": json.loads(json.dumps(workspace.tokenizers["events"], default=vars)),
        "datasets": {"views": {**vars(workspace.datasets["views"]), "source": ["data/views.jsonl"]}},
    }
    run = record.create(root, "next", plan=plan, state="done", fingerprint=made.fingerprint)
    folder = run.folder / record.MODEL
    made.save(folder)
    assert verified(root, run.name).passed
    file = folder / "event_fields.json"
    values = json.loads(file.read_text())
    values["fields"].reverse()
    file.write_text(json.dumps(values))
    (folder / fingerprint.FILE).unlink()
    report = verified(root, run.name)
    assert values_of(report)["ids"] > 0
    assert any("events, the export, opened again: ids: " in text for text in report.explained)


def test_each_change_is_one_of_what_is_known_after(root: Path) -> None:
    made = open_tokenizer(read(root), "events")
    found = dict(awkward_events.at_random(made, 0, 30))
    assert len(found) == 30
    for events in found.values():
        assert len(events.changed) == 2 * len(events.row["items"])
        for (at, key), row in events.changed.items():
            assert key in ("seconds", "action")
            other = made.fields.labels(row, len(row["items"]), len(row["items"]))
            assert [column[at] for column in other.values()] != list(events.labels[at].values())
            same = {name: one for name, one in row.items() if name != key}
            assert same == {name: one for name, one in events.row.items() if name != key}
    values = {value for events in found.values() for value in events.row["seconds"]}
    assert {None, 60, 600} <= values, "the bounds themselves"
