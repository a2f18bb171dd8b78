"""What is to be said of the rows is counted: names, one or several of a row, and numbers by their names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ptw.survey.facts import facts
from ptw.survey.figures import as_json
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry
from tests.data.test_survey import surveyed

ROWS = ["i1 is good", "i2 is bad", "i3 is good"]


def told(root: Path, tokenizer: Tokenizer, labels: list[dict[str, Any]]) -> tuple[dict[str, str], Any]:
    rows = [{"text": text, **label} for text, label in zip(ROWS, labels, strict=True)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    survey = surveyed(root, DatasetEntry("things", ("rows.jsonl",), "labelled"), tokenizer)
    return dict(facts(survey)), as_json(survey)["parts"][0]["labels"]


def test_names_and_numbers(tmp_path: Path, chat_tokenizer: Callable[..., Tokenizer]) -> None:
    several = [{"labels": ["a", "b"]}, {"labels": ["a"]}, {"labels": []}]
    said, plain = told(tmp_path, chat_tokenizer(), several)
    assert said["labels"] == "2 names, 1 of a row: a 2, b 1"
    assert plain["names"] == {"a": 2, "b": 1}
    said, _ = told(tmp_path, chat_tokenizer(), [{"label": name} for name in "abb"])
    assert said["labels"] == "2 names, 1 of a row: b 2, a 1"
    said, plain = told(tmp_path, chat_tokenizer(), [{"number": number} for number in (1, 2.5, 4)])
    assert said["numbers"] == "1 to 4, mean 2.5"
    assert plain["numbers"][""] == {"least": 1.0, "most": 4.0, "total": 7.5, "count": 3, "mean": 2.5}
    said, _ = told(tmp_path, chat_tokenizer(), [{"number": {"price": number}} for number in (1, 2, 3)])
    assert said["numbers"] == "price: 1 to 3, mean 2"


def test_other_formats_say_nothing(tmp_path: Path, chat_tokenizer: Callable[..., Tokenizer]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "i1 is good"}\n')
    survey = surveyed(tmp_path, DatasetEntry("things", ("rows.jsonl",), "text"), chat_tokenizer())
    assert not {"labels", "numbers"} & dict(facts(survey)).keys()
    assert as_json(survey)["parts"][0]["labels"] is None
