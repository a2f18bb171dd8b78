"""The rewards that ptw brings say what their first line says."""

from typing import Any

import pytest

from ptw.errors import PtwError
from ptw.rl.rewards import open_rewards, worth
from ptw.workspace import rooms

CASES: list[tuple[str, dict[str, Any], str, float]] = [
    ("number", {"answer": "So it is 5 + 67.\n#### 1,072"}, "First 12, then 1072.", 1),
    ("number", {"answer": "#### 72"}, "The answer is 72.0", 1),
    ("number", {"answer": "#### 72"}, "72 or 73", 0),
    ("number", {"answer": 72}, "no number", 0),
    ("number", {"answer": "#### -3"}, "it is -3", 1),
    ("pattern", {"pattern": r"\bfilm\b"}, "a film for you", 1),
    ("pattern", {"pattern": r"\bfilm\b"}, "films", 0),
    ("json_keys", {"keys": ["title"]}, '{"title": "Up", "year": 2009}', 1),
    ("json_keys", {"keys": ["title"]}, '{"year": 2009}', 0.5),
    ("json_keys", {"keys": ["title"]}, "[1]", 0.5),
    ("json_keys", {"keys": ["title"]}, "Up", 0),
]


@pytest.mark.parametrize(("name", "row", "answer", "wanted"), CASES)
def test_a_stock_reward(name: str, row: dict[str, Any], answer: str, wanted: float) -> None:
    found = open_rewards(rooms.stock("rewards").parent, [name])
    assert worth(found, answer, row, "data/asked.jsonl:1") == {name: wanted}


def test_a_row_that_lacks_what_a_reward_needs_is_named() -> None:
    found = open_rewards(rooms.stock("rewards").parent, ["pattern"])
    with pytest.raises(PtwError, match=r"rewards/pattern\.py: data/asked\.jsonl:7: KeyError: 'pattern'"):
        worth(found, "an answer", {}, "data/asked.jsonl:7")
