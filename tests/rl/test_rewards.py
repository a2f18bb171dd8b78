"""The rewards that ptw brings say what their first line says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptw.errors import PtwError
from ptw.rl.caller import Caller
from ptw.rl.rewards import Rewards
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


STOCK = rooms.stock("rewards").parent
PLACE = "data/asked.jsonl:7"


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    one = Caller(20)
    yield one
    one.close()


@pytest.mark.parametrize(("name", "row", "answer", "wanted"), CASES)
def test_a_stock_reward(caller: Caller, name: str, row: dict[str, Any], answer: str, wanted: float) -> None:
    assert Rewards(STOCK, [name], caller)(answer, row, [], PLACE) == {name: wanted}


def test_a_row_that_lacks_what_a_reward_needs_is_named(caller: Caller) -> None:
    with pytest.raises(PtwError, match=r"rewards/pattern\.py: data/asked\.jsonl:7: KeyError: 'pattern'"):
        Rewards(STOCK, ["pattern"], caller)("an answer", {}, [], PLACE)


def written(root: Path, text: str) -> Path:
    (root / "rewards").mkdir()
    (root / "rewards" / "own.py").write_text(text)
    return root


def test_a_reward_may_know_whether_an_answer_was_cut_off(tmp_path: Path, caller: Caller) -> None:
    root = written(tmp_path, "def reward(answer, row, ended):\n    return 1 if ended else -1\n")
    rewards = Rewards(root, ["own"], caller)
    assert [rewards("Yes", {}, [], PLACE, ended=ended)["own"] for ended in (True, False)] == [1, -1]


def test_a_reward_may_see_the_whole_conversation(tmp_path: Path, caller: Caller) -> None:
    root = written(tmp_path, "def reward(answer, row, messages):\n    return len(messages) + row['more']\n")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    assert Rewards(root, ["own"], caller)("Yes?", {"more": 0.5}, messages, PLACE) == {"own": 2.5}


HUNG = """import re
import time
def reward(answer, row):
    print("what a reward prints is no answer")
    if answer == "sleeps":
        time.sleep(60)
    elif answer == "holds all":
        re.match(r"(a+)+$", "a" * 40 + "b")
    elif answer == "dies":
        import os
        os._exit(3)
    return 1.0
"""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("sleeps", r"reward took longer than reward_seconds = 1 \(it was in line 6\)"),
        ("holds all", r"reward took longer than reward_seconds = 1 \(it was in line 8\)"),
        ("dies", r"reward ended its process \(exit 3\)"),
    ],
)
def test_a_reward_that_hangs_or_dies_is_named(tmp_path: Path, answer: str, said: str) -> None:
    """Also one that lets no other thread run, as a regular expression does."""
    caller = Caller(1)
    rewards = Rewards(written(tmp_path, HUNG), ["own"], caller)
    assert rewards("fine", {}, [], PLACE) == {"own": 1.0}
    with pytest.raises(PtwError, match=rf"rewards/own\.py: data/asked\.jsonl:7: {said}.*'{answer}'"):
        rewards(answer, {}, [], PLACE)
    assert rewards("fine", {}, [], PLACE) == {"own": 1.0}, "another process goes on"
    caller.close()
    with pytest.raises(PtwError, match="the run has ended"):
        rewards("fine", {}, [], PLACE)
