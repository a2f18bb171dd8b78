"""What no event can have as a field is told with its line, and with what would do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ptw.workspace import manifest
from ptw.workspace.check import problems

Change = Callable[[str, str], Path]
DEVICE = 'values = ["tv", 2, true]\nknown = "before"'
MISTAKES = [
    (DEVICE, 'values = ["tv"]', "device.known", "missing; add known: before: when the item is asked for"),
    (DEVICE, 'values = ["tv"]\nknown = "befor"', "device.known", "did you mean 'before'?"),
    (DEVICE, 'known = "before"', "device", "nothing says which values are told apart"),
    (DEVICE, 'values = []\nknown = "before"', "device.values", "empty"),
    (
        DEVICE,
        'values = [1.5]\nknown = "before"',
        "device.values[0]",
        "a string or an integer or true or false",
    ),
    (DEVICE, 'values = [2, "2"]\nknown = "before"', "device.values[1]", "a value twice"),
    (DEVICE, 'values = ["a|b"]\nknown = "before"', "device.values[0]", 'let "other" stand for it'),
    (DEVICE, 'values = ["a\\nb"]\nknown = "before"', "device.values[0]", "can't be printed"),
    (DEVICE, 'values = ["a"]\nbounds = [1]\nknown = "before"', "device.bounds", "stands beside values"),
    (DEVICE, 'values = ["a"]\nvalue = 1\nknown = "before"', "device.value", "did you mean 'values'?"),
    (DEVICE, 'values = ["a"]\nkey = "items"\nknown = "before"', "device.key", "for something else"),
    ("fields.device]", "fields.id]", "id", "name another key of the row"),
    ("bounds = [60, 600]", "bounds = [60, 60]", "seconds.bounds[1]", "not more than the one before it, 60"),
    ("bounds = [60, 600]", "bounds = [9, 8.5]", "seconds.bounds[1]", "rising order"),
    ("bounds = [60, 600]", "bounds = [nan]", "seconds.bounds[0]", "a finite number"),
    ("bounds = [60, 600]", 'bounds = ["60"]', "seconds.bounds[0]", "a finite number"),
    ("bounds = [60, 600]", "bounds = 60", "seconds.bounds", "a list"),
    ("bounds = [3600, 86400.5]\n", "", "since.part", "told apart by intervals"),
    ('part = "hour"', 'part = "year"', "hour.part", "known choices: gap, hour, weekday"),
    ('part = "hour"', 'part = "hour"\nbounds = [3]', "hour.part", "stands beside bounds"),
    ("learn = false", 'learn = "no"', "seconds.learn", "true or false"),
    ("learn = false", 'key = "times"', "seconds.known", "field hour reads the same key, times"),
]
OF_THE_TOKENIZER = [
    ("merges = 8\n", "", "merges_from", "needs merges"),
    ('merges_from = "viewings"\n', "", "merges", "needs merges_from"),
    ("merges = 8", "merges = 0", "merges", "the least is 1"),
    ('merges_from = "viewings"', 'merges_from = "viewing"', "merges_from", "did you mean 'viewings'?"),
    ('merges_from = "viewings"', 'merges_from = "blend"', "merges_from", "not of events alone"),
    ('part = "hour"\nkey = "times"\nknown = "before"', 'part = "hour"\nknown = "after"', "merges", None),
    ("[tokenizers.events.fields.device]", "[tokenizers.events.fields]\na = 3", "fields.a", "a table"),
    ("[tokenizers.events.fields.device]", '[tokenizers.events.fields."a b"]', 'fields."a b"', "a name has"),
]


def told(root: Path, key: str, words: str) -> None:
    found = [problem for problem in problems(root) if problem.key == f"tokenizers.events.{key}"]
    assert any(words in f"{one.message}; {one.hint}" for one in found), problems(root)
    lines = (root / "workspace.toml").read_text().split("\n")
    for problem in found:
        stands = "\n".join(lines[max(problem.line - 1, 0) : problem.line])
        assert (
            key.split(".")[-1].split("[")[0].strip('"') in stands
            or problem.message == "missing"
            or (problem.message.startswith("needs"))
        )


@pytest.mark.parametrize(("old", "new", "key", "words"), MISTAKES)
def test_a_field_that_cannot_be_is_told(changed: Change, old: str, new: str, key: str, words: str) -> None:
    told(changed(old, new), f"fields.{key}", words)


@pytest.mark.parametrize(("old", "new", "key", "words"), OF_THE_TOKENIZER)
def test_so_is_what_a_tokenizer_says_of_them(
    changed: Change, old: str, new: str, key: str, words: str | None
) -> None:
    root = changed(old, new)
    if words is None:  # two fields stay before an item, and one is merged with the other
        assert problems(root) == []
    else:
        told(root, key, words)


def test_where_a_side_has_one_field_there_is_nothing_to_merge(root: Path) -> None:
    text = (root / "workspace.toml").read_text()
    begin, end = (
        text.index("[tokenizers.events.fields.hour]"),
        text.index("[tokenizers.events.fields.seconds]"),
    )
    (root / "workspace.toml").write_text(text[:begin] + text[end:])
    told(root, "merges", "nothing to merge")


def test_fields_are_of_events(root: Path) -> None:
    text = (root / "workspace.toml").read_text()
    events = text.index("[tokenizers.events]")
    words = text[events:].replace('items = "data/items.jsonl"', 'learn_from = "chats"\nvocab_size = 400', 1)
    (root / "workspace.toml").write_text(text[:events] + words)
    told(root, "fields", "only events have fields")


def test_what_is_declared_is_read(root: Path) -> None:
    fields = manifest.read(root).tokenizers["events"].fields
    assert list(fields) == ["device", "hour", "since", "seconds"]
    assert fields["device"].values == ("tv", "2", "true")
    assert (fields["device"].key, fields["hour"].key) == ("device", "times")
    assert [field.learn for field in fields.values()] == [False, False, False, False]
    assert manifest.field_entry("x", "after", bounds=[1]).learn
    again = manifest.tokenizer_entry("events", fields={name: vars(one) for name, one in fields.items()})
    assert again.fields == fields
