"""Fields of events: their tokens around an item, what a value becomes, and merges that lose nothing."""

import dataclasses
import json
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptw.errors import PtwError
from ptw.tokens import fingerprint, merges
from ptw.tokens.buckets import intervals, reader_of
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.fields import Fields
from ptw.tokens.merges import Pair, Side
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.workspace.manifest import FieldEntry, Workspace, field_entry, read
from tests.train.conftest import with_codes

TOML = """
[workspace]
name = "films"
[semantic_ids.films]
items = "data/items.jsonl"
levels = 2
codebook_size = 4
[tokenizers.events]
items = "data/items.jsonl"
{merges}
[tokenizers.events.fields.device]
values = ["tv", "phone", "other"]
known = "before"
[tokenizers.events.fields.seconds]
bounds = [60, 600]
known = "after"
[tokenizers.events.fields.hour]
part = "hour"
key = "at"
known = "before"
[tokenizers.events.fields.liked]
values = [true, false]
known = "after"
[tokenizers.codes]
semantic_ids = "films"
[tokenizers.codes.fields.device]
values = ["tv", "phone"]
known = "before"
[tokenizers.words]
learn_from = "texts"
vocab_size = 300
semantic_ids = "films"
special_tokens = ["<|binge|>"]
[tokenizers.words.fields.device]
values = ["tv", "phone"]
known = "before"
[datasets.texts]
source = "data/texts.jsonl"
format = "text"
[datasets.views]
source = "data/views.jsonl"
format = "event"
leave_out = 1
"""
MERGES = 'merges = 9\nmerges_from = "views"'
ROW = {
    "items": ["f1", "f0", "f3"],
    "device": ["tv", "radio", None],
    "at": [3600, "2026-11-22T23:15:00+05:00", None],
    "seconds": [59, 60.0, None],
    "liked": [True, None, False],
}
TEXTS = (
    "<s> <|device=tv|> <|hour=01|> f1 <|seconds=..60|> <|liked=true|> "
    "<|device=other|> <|hour=23|> f0 <|seconds=60..600|> <|liked=|> "
    "<|device=|> <|hour=|> f3 <|seconds=|> <|liked=false|>"
)


def films(root: Path, merges: str = "", rows: list[dict[str, Any]] | None = None) -> Workspace:
    (root / "data").mkdir(parents=True)
    texts, items = [{"text": "I watched a film and liked it."}] * 9, [{"id": f"f{n}"} for n in range(4)]
    for name, found in {"items": items, "texts": texts, "views": rows or [ROW]}.items():
        (root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found))
    (root / "workspace.toml").write_text(TOML.format(merges=merges))
    codes = [[0, 0], [0, 1], [3, 2], [1, 3]]
    names = [f"f{n}" for n in range(4)]
    with_codes(root, "films", codes, items=names, size=4, file="data/items.jsonl")
    return read(root)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return films(tmp_path)


def ids_of(tokenizer: Tokenizer, row: dict[str, Any]) -> list[int]:
    events = tokenizer.events(row["items"], row)
    return [
        *([tokenizer.bos_id] if tokenizer.bos_id is not None else []),
        *(id_ for one in events for id_ in one.ids),
    ]


def test_what_is_known_before_stands_before_the_item_and_the_rest_after_it(workspace: Workspace) -> None:
    tokenizer = open_tokenizer(workspace, "events")
    ids = ids_of(tokenizer, ROW)
    assert tokenizer.hf.convert_ids_to_tokens(ids) == TEXTS.split()
    assert tokenizer.decode(ids) == TEXTS
    assert tokenizer.encode(TEXTS.removeprefix("<s> ")) == ids[1:]
    assert tokenizer.item_names == ("f0", "f1", "f2", "f3"), "a field is no item"
    assert tokenizer.unknown_items(["<|device=tv|>"]) == ["<|device=tv|>"]
    assert tokenizer.told(ids)[1] == {"device": "other", "hour": "23", "seconds": "60..600", "liked": None}
    first = tokenizer.events(ROW["items"], ROW, 2)
    assert first == tokenizer.events(ROW["items"], ROW)[:2]
    assert [one.item for one in tokenizer.events(["f1", None], {k: v[:2] for k, v in ROW.items()})][1] == ()


def test_an_item_of_several_codes_has_its_fields_around_all_of_them(workspace: Workspace) -> None:
    tokenizer = open_tokenizer(workspace, "codes")
    ids = ids_of(tokenizer, {"items": ["f2", "f3"], "device": ["phone", "tv"]})
    assert tokenizer.decode(ids).split() == [
        *("<s>", "<|device=phone|>", "<|films.0.3|>", "<|films.1.2|>"),
        *("<|device=tv|>", "<|films.0.1|>", "<|films.1.3|>"),
    ]
    assert [one["device"] for one in tokenizer.told(ids)] == ["phone", "tv"]


def test_a_tokenizer_of_words_has_them_too(workspace: Workspace, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(workspace, "words")
    ids = ids_of(tokenizer, {"items": ["f2"], "device": ["tv"]})
    assert tokenizer.decode(ids[1:]) == "<|device=tv|><|films.0.3|><|films.1.2|>"
    bare = dataclasses.replace(workspace.tokenizers["words"], fields={})
    other = open_tokenizer(dataclasses.replace(workspace, tokenizers={"words": bare}), "words")
    assert min(tokenizer.field_ids) == other.size, "they stand behind what it had without them"
    assert tokenizer.encode("I liked <|films.0.3|>.") == other.encode("I liked <|films.0.3|>.")
    assert not set(tokenizer.field_ids) & set(tokenizer.answer_ids), "no answer says one"
    tokenizer.save(tmp_path / "saved")
    assert ids_of(load_tokenizer(tmp_path / "saved"), {"items": ["f2"], "device": ["tv"]}) == ids


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("device", None, "needs `device`, a list with a value for each of its 3 items; this row has None"),
        ("device", ["tv"], "`device` has 1 values for 3 items; give one for each, and null for what is not"),
        ("seconds", [1, "9", None], "`seconds` of event 2 is '9': it must be a number, or null"),
        ("seconds", [1, True, None], "`seconds` of event 2 is True: it must be a number"),
        ("seconds", [1, float("nan"), None], "`seconds` of event 2 is nan: it must be a number"),
        (
            "liked",
            [None, None, "yes"],
            "of event 3 is 'yes': none of the values of field liked (true, false)",
        ),
        ("at", ["noon", 1, 1], "`at` of event 1 is 'noon': it must be a time, Unix seconds or ISO 8601"),
        (
            "at",
            [1, 1, 1_700_000_000_000],
            "is 1700000000000: it lies beyond the year 9999; a time is in seconds",
        ),
        ("at", [1, [], 1], "`at` of event 2 is []: it must be a time"),
        ("at", [1, 10**400, 1], "it lies beyond the year 9999"),
    ],
)
def test_a_row_that_cannot_be_is_told(workspace: Workspace, key: str, values: Any, words: str) -> None:
    with pytest.raises(PtwError) as raised:
        open_tokenizer(workspace, "events").events(ROW["items"], {**ROW, key: values})
    assert words in str(raised.value)
    assert len(str(raised.value)) < 400 + len(str(values))


def test_the_gap_is_the_time_since_the_event_before() -> None:
    since = field_entry("since", "before", key="at", part="gap", bounds=[60, 3600])
    fields = Fields([since])
    at = [100, 159.9, "1970-01-01T00:03:40Z", None, 5000, "1970-01-01T02:23:20"]
    labels = fields.labels({"at": at}, 6, 6)["since"]
    assert labels == [None, "..60", "60..3600", None, None, "3600.."]
    with pytest.raises(PtwError, match="`at` of event 2 is 4, earlier than that of event 1"):
        fields.labels({"at": [5, 4]}, 2, 2)


@settings(deadline=None)
@given(
    bounds=st.lists(st.floats(-1e9, 1e9) | st.integers(-9, 9), min_size=1, max_size=6, unique_by=float),
    value=st.floats(-1e10, 1e10) | st.integers(-10, 10),
)
def test_a_number_is_in_the_interval_that_holds_it(bounds: list[float], value: float) -> None:
    bounds = sorted(bounds)
    ends = [float("-inf"), *bounds, float("inf")]
    (place,) = [at for at, (low, high) in enumerate(pairwise(ends)) if low <= value < high]
    assert reader_of(field_entry("x", "after", bounds=bounds))(value) == intervals(bounds)[place]
    assert len(set(intervals(bounds))) == len(bounds) + 1


@settings(deadline=None)
@given(
    moment=st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),
    hours=st.integers(-14, 14),
)
def test_a_time_is_of_the_day_and_hour_that_it_is_written_in(moment: datetime, hours: int) -> None:
    hour, weekday = (reader_of(field_entry("x", "before", part=part)) for part in ("hour", "weekday"))
    there = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert (hour(there.isoformat()), weekday(there.isoformat())) == _by_strftime(there)
    assert (hour(moment), weekday(moment.isoformat())) == _by_strftime(moment)
    seconds = moment.replace(microsecond=0, tzinfo=UTC).timestamp()
    assert (hour(seconds), weekday(int(seconds))) == _by_strftime(moment)


def _by_strftime(moment: datetime) -> tuple[str, str]:
    names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    return moment.strftime("%H"), names[int(moment.strftime("%u")) - 1]


def by_counting_anew(sides: Counter[Side], count: int) -> list[Pair]:
    """Byte-pair encoding as the paper has it: all pairs are counted again for each merge."""
    words, found = dict(sides), []
    for _ in range(count):
        counts: Counter[Pair] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                counts[pair] += times
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        found.append(best)
        joined: Counter[Side] = Counter()
        for word, times in words.items():
            at = list(pairwise(word)).index(best) if best in pairwise(word) else None
            new = word if at is None else (*word[:at], merges.joined(*best), *word[at + 2 :])
            joined[new] += times
        words = joined
    return found


SIDES = st.lists(
    st.tuples(*(st.sampled_from([f"<|{name}={value}|>" for value in "xyz"]) for name in "abcd")), max_size=40
)


@settings(deadline=None)
@given(SIDES, st.integers(0, 30))
def test_merges_are_those_of_byte_pair_encoding(sides: list[Side], count: int) -> None:
    assert merges.learn(Counter(sides), count, lambda *_: True) == by_counting_anew(Counter(sides), count)


@settings(max_examples=50, deadline=None)
@given(SIDES, st.sampled_from(["before", "after"]), st.booleans())
def test_merged_tokens_say_what_they_were_merged_of(sides: list[Side], known: str, learn: bool) -> None:
    declared = [field_entry(name, known, values="xyz", learn=learn) for name in "abcd"]
    found = Fields(declared, merges.learn(Counter(sides), 20, Fields(declared).may_join))
    for side in sides:
        values = {name: [token[4]] for name, token in zip("abcd", side, strict=True)}
        ((before, after),) = found.sides(values, 1, 1)
        own = before if known == "before" else after
        assert (after if known == "before" else before) == ()
        told = {name: label for token in own for name, label in found.said[token].items()}
        assert told == {name: value for name, (value,) in values.items()}
        assert len(own) <= 4
    assert set(found.side_of.values()) == {known}


def test_no_merge_joins_what_is_learnt_with_what_is_not_nor_reaches_over_an_item(tmp_path: Path) -> None:
    rows = [{key: values[:1] * 2 for key, values in ROW.items()}] * 5
    workspace = films(tmp_path, MERGES, rows)
    entry = workspace.tokenizers["events"]
    tokenizer = open_tokenizer(workspace, "events")
    assert tokenizer.fields.merges == (
        ("<|device=tv|>", "<|hour=01|>"),
        ("<|seconds=..60|>", "<|liked=true|>"),
    )
    assert "its data taught 2 merges, fewer than merges = 9" in tokenizer.notes[0]
    shorter = tokenizer.decode(ids_of(tokenizer, rows[0])).split()
    assert shorter == ["<s>", *["<|device=tv|hour=01|>", "f1", "<|seconds=..60|liked=true|>"] * 2]
    unlearnt = {**entry.fields, "liked": dataclasses.replace(entry.fields["liked"], learn=False)}
    other = with_fields(workspace, fields=unlearnt)
    assert open_tokenizer(other, "events").fields.merges == (("<|device=tv|>", "<|hour=01|>"),)


def test_merges_are_learnt_from_the_training_part_and_kept(tmp_path: Path) -> None:
    last = {**{key: values[:1] * 2 for key, values in ROW.items()}, "device": ["phone", "tv"]}
    workspace = films(tmp_path, MERGES, [last] * 5)
    pairs = open_tokenizer(workspace, "events").fields.merges
    assert ("<|device=phone|>", "<|hour=01|>") in pairs
    assert ("<|device=tv|>", "<|hour=01|>") not in pairs
    kept = sorted((tmp_path / ".ptw" / "tokenizers").iterdir())
    assert open_tokenizer(workspace, "events").fields.merges == pairs
    assert sorted((tmp_path / ".ptw" / "tokenizers").iterdir()) == kept
    (tmp_path / "data" / "views.jsonl").write_text(json.dumps({**last, "device": ["phone"]}) + "\n")
    with pytest.raises(PtwError, match=r"views\.jsonl:1: `device` has 1 values for 2 items"):
        open_tokenizer(workspace, "events")


def with_fields(workspace: Workspace, **changes: Any) -> Workspace:
    entry = dataclasses.replace(workspace.tokenizers["events"], **changes)
    return dataclasses.replace(workspace, tokenizers={"events": entry})


def changed(name: str, **changes: Any) -> Any:
    def change(fields: dict[str, FieldEntry]) -> dict[str, FieldEntry]:
        return {**fields, name: dataclasses.replace(fields[name], **changes)}

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("device", known="after"),
        changed("device", learn=True),
        changed("device", key="screen"),
        changed("device", values=("tv", "phone", "web")),
        changed("device", values=("phone", "tv", "other")),
        changed("seconds", bounds=(60, 601)),
        changed("hour", part="weekday"),
        lambda fields: dict(reversed(fields.items())),
        lambda fields: {name: one for name, one in fields.items() if name != "liked"},
    ],
)
def test_another_declaration_is_another_tokenizer(workspace: Workspace, change: Any) -> None:
    old = open_tokenizer(workspace, "events")
    fields = change(dict(workspace.tokenizers["events"].fields))
    new = open_tokenizer(with_fields(workspace, fields=fields), "events")
    assert old.fingerprint != new.fingerprint
    assert fingerprint.first_difference(old, new) is not None
    assert fingerprint.first_difference(new, old) is not None


def test_it_comes_back_with_its_fields(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(films(tmp_path, MERGES, [ROW] * 3), "events")
    assert tokenizer.fields.merges
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint == tokenizer.fingerprint
    assert ids_of(again, ROW) == ids_of(tokenizer, ROW)
    assert again.unlearnt_ids == tokenizer.unlearnt_ids
    assert fingerprint.first_difference(tokenizer, again) is None
    bare = open_tokenizer(with_fields(read(tmp_path), fields={}, merges=0, merges_from=None), "events")
    assert fingerprint.first_difference(bare, tokenizer) is None, "fields are new tokens"
    file = tmp_path / "saved" / "event_fields.json"
    known = file.read_text()
    file.write_text(known.replace('"known": "after"', '"known": "before"', 1))
    with pytest.raises(PtwError, match="not the one that was saved there: other fields"):
        load_tokenizer(tmp_path / "saved")
    for broken in ("[]", "{", known.replace('"tv"', "7"), known.replace("device=tv", "device=car")):
        file.write_text(broken)
        with pytest.raises(PtwError, match=r"saved"):
            load_tokenizer(tmp_path / "saved")


def test_an_item_that_is_called_like_a_field_is_refused(tmp_path: Path) -> None:
    workspace = films(tmp_path)
    (tmp_path / "data" / "items.jsonl").write_text('{"id": "<|device=tv|>"}\n')
    with pytest.raises(PtwError, match=r"it has a token '<\|device=tv\|>' already"):
        open_tokenizer(workspace, "events")


def test_whole_numbers_that_a_column_with_nulls_made_floats_are_the_same_values() -> None:
    read = reader_of(field_entry("device", "before", values=("1", "2", "other")))
    assert [read(value) for value in (1, 1.0, "1", 2.0, 2.5, 7)] == ["1", "1", "1", "2", "other", "other"]
