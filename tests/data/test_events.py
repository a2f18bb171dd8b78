"""Events with fields become rows of ids: none is cut in its middle, and what is given is no target."""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptw.data.fit import fit, newest
from ptw.data.pack import IGNORED, lay_out
from ptw.data.render import render
from ptw.data.sample import Sample
from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.survey.facts import facts
from ptw.survey.figures import as_json
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry, read
from tests.data.test_survey import surveyed

TOML = """
[workspace]
name = "w"
[tokenizers.events]
items = "items.jsonl"
merges = 3
merges_from = "views"
[tokenizers.events.fields.device]
values = ["tv", "phone"]
known = "before"
[tokenizers.events.fields.hour]
part = "hour"
key = "at"
known = "before"
learn = true
[tokenizers.events.fields.seconds]
bounds = [60, 600]
known = "after"
[tokenizers.events.fields.action]
values = ["play", "like", "other"]
known = "after"
[datasets.views]
source = "views.jsonl"
format = "event"
leave_out = 1
"""


def row_of(length: int) -> dict[str, Any]:
    return {
        "items": [f"i{at % 9}" for at in range(length)],
        "device": [[None, "tv", "phone"][at % 3] for at in range(length)],
        "at": [1_700_000_000 + 3600 * at for at in range(length)],
        "seconds": [[5, 90, 900, None][at % 4] for at in range(length)],
        "action": ["play" if at % 2 else "share" for at in range(length)],
    }


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    rows = [row_of(length) for length in (4, 30, 1, 12)]
    (tmp_path / "items.jsonl").write_text("".join(f'{{"id": "i{n}"}}\n' for n in range(9)))
    (tmp_path / "views.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "workspace.toml").write_text(TOML)
    return open_tokenizer(read(tmp_path), "events")


def entry(**keys: Any) -> DatasetEntry:
    return DatasetEntry("views", ("views.jsonl",), "event", **keys)


def test_a_sample_knows_its_events_and_its_targets(tokenizer: Tokenizer) -> None:
    row = row_of(6)
    sample = render(Row("d:1", row), entry(leave_out=1), tokenizer)
    events = tokenizer.events(row["items"], row, 5)
    assert sample.ids.tolist() == [tokenizer.bos_id, *(id_ for one in events for id_ in one.ids)]
    assert sample.events == tuple(len(one.ids) for one in events)
    assert len(set(sample.events)) > 1, "merges make them unequal"
    tokens = tokenizer.hf.convert_ids_to_tokens(sample.ids.tolist())
    unlearnt = [token for token, learn in zip(tokens, sample.learn, strict=True) if not learn]
    assert all(token == "<s>" or token.startswith("<|device=") for token in unlearnt)
    learnt = {token for token, learn in zip(tokens, sample.learn, strict=True) if learn}
    assert {"i0", "<|hour=22|>"} <= learnt, "items, what is known after them, and what the workspace says"
    assert any("seconds" in token for token in learnt)
    laid = lay_out([sample], 32, 0)
    assert {int(id_) for id_ in laid.targets if id_ != IGNORED} == set(sample.ids[sample.learn].tolist())


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(2, 20), st.booleans(), st.booleans())
def test_what_is_cut_is_cut_between_events(lengths: list[int], window: int, begun: bool, cut: bool) -> None:
    ids = np.arange(sum(lengths) + begun, dtype=np.int32)
    sample = Sample("a", ids, np.arange(len(ids)) > 0, events=tuple(lengths))
    parts, reason = fit(sample, entry(too_long="truncate" if cut else "split"), window)
    ends = {0, *(begun + end for end in accumulate(lengths, initial=0))}
    if not sample.learns:
        return
    if reason is not None and "hold no target" in reason:
        assert cut
        assert lengths[-1] + begun == 1, "the first id of a document is no target"
        return
    if reason is not None:
        assert max(lengths) + begun > window
        assert "an event of it" in reason
        return
    assert all(len(part.ids) <= window for part in parts)
    for part in parts:
        own = part.ids[begun:] if cut else part.ids
        assert int(own[0]) in ends
        assert int(part.ids[-1]) + 1 in ends
        assert sum(part.events) == len(part.ids) - (begun and part.ids[0] == 0)
    if cut:
        kept = parts[0].events
        assert kept == tuple(lengths[len(lengths) - len(kept) :]), "the newest"
        rest = lengths[: len(lengths) - len(kept)]
        assert not rest or sum(kept) + begun + rest[-1] > window, "as many as fit"
        assert int(parts[0].ids[0]) == 0 or not begun
    else:
        assert np.concatenate([part.ids for part in parts]).tolist() == ids.tolist()
        assert sum((part.events for part in parts), ()) == tuple(lengths)


@given(st.lists(st.integers(1, 5)), st.integers(0, 20))
def test_the_newest_that_fit_are_counted(lengths: list[int], room: int) -> None:
    count = newest(lengths, room)
    sums = [sum(lengths[len(lengths) - many :]) for many in range(len(lengths) + 1)]
    assert count == max(many for many, total in enumerate(sums) if total <= room)


@pytest.mark.parametrize("too_long", ["truncate", "split"])
def test_a_stream_hands_out_whole_events(too_long: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    dataset = entry(leave_out=1, too_long=too_long)
    stream = Stream(tmp_path, dataset, tokenizer, window=16, seed=0, epochs=1)
    count = 0
    for row in stream:
        begins = accumulate(row.lengths, initial=0)
        for begin, length in zip(begins, row.lengths, strict=False):
            ids = row.ids[begin : begin + length].tolist()
            told = tokenizer.told(ids)
            assert all(set(event) == {"device", "hour", "seconds", "action"} for event in told), "whole ones"
            count += len(told)
    lengths = [
        [len(one.ids) for one in tokenizer.events(row["items"], row)][:-1] for row in map(row_of, (4, 30, 12))
    ]
    wanted = sum(newest(one, 15) if too_long == "truncate" else len(one) for one in lengths)
    assert count == wanted


def test_an_event_that_no_window_takes_is_no_sample(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for too_long in ("truncate", "split"):
        sample = render(Row("d:1", row_of(9)), entry(too_long=too_long), tokenizer)
        parts, reason = fit(sample, entry(too_long=too_long), 4)
        assert parts == ()
        assert str(reason).endswith("ids with what begins it, more than the window of 4")


def test_a_row_that_cannot_be_is_told_with_its_place(tokenizer: Tokenizer) -> None:
    row = {**row_of(3), "device": ["tv", "car", "tv"]}
    with pytest.raises(
        PtwError, match=r"^d:7: `device` of event 2 is 'car': none of the values of field device"
    ):
        render(Row("d:7", row), entry(), tokenizer)
    assert render(Row("d:7", row), entry(leave_out=2), tokenizer).ids.size, "as with items that are left out"
    with pytest.raises(PtwError, match=r"^d:7: `action` has 2 values for 3 items"):
        render(Row("d:7", {**row_of(3), "action": ["play", None]}), entry(leave_out=3), tokenizer)


def test_what_a_dataset_is_tells_of_fields(tokenizer: Tokenizer, tmp_path: Path) -> None:
    survey = surveyed(tmp_path, entry(leave_out=1), tokenizer)
    told = as_json(survey)["parts"][0]["events"]
    rows = [row_of(length) for length in (4, 30, 1, 12)]
    devices = [value or "" for row in rows for value in row["device"][:-1]]
    assert told["fields"]["device"] == {value: devices.count(value) for value in set(devices)}
    said = dict(facts(survey))
    share = told["field_ids"] / len(devices)
    assert said["fields"] == f"4 of an event, in {share:.3g} tokens"
    assert share < 4
    assert said["not known"].startswith(f"device {devices.count('') / len(devices):.1%}, hour 0.0%")
