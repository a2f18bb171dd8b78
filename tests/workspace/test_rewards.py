"""What a recipe asks of rewards/, and which files its settings name, is seen before anything is run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ptw.workspace import rooms
from ptw.workspace.check import problems

RECIPE = '''"""Asks for rewards."""

from dataclasses import dataclass

REWARDS = {"rewards": ("reward", "relevance"), "environment": ("turn",)}
FILES = ("catalogue",)


@dataclass(frozen=True)
class Settings:
    steps: int = 3
    rewards: list[str] | None = None
    environment: str | None = None
    catalogue: str | None = None


def train(run, settings):
    pass
'''
OWN = "def reward(answer, row):\n    return 0.0\n"


@pytest.fixture
def told(changed: Callable[[str, str], Path]) -> Callable[[str], list[str]]:
    """What is said of a setting."""

    def tell(setting: str) -> list[str]:
        root = changed("steps = 3\nlearning_rate = 1", setting)
        (root / "recipes" / "own.py").write_text(RECIPE)
        (root / "rewards").mkdir(exist_ok=True)
        (root / "rewards" / "own.py").write_text(OWN)
        (root / "rewards" / "broken.py").write_text("def reward(:\n")
        return [f"{problem.key}: {problem.message}; {problem.hint}" for problem in problems(root)]

    return tell


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('rewards = ["hit"]', "rewards: there is no such file in rewards/; did you mean 'hits'?"),
        (
            'rewards = ["hits", "own"]',
            "rewards: rewards/own.py has no `def relevance`, which this recipe calls",
        ),
        ('rewards = ["broken"]', "rewards: it cannot be read"),
        ('environment = "own"', "environment: rewards/own.py has no `def turn`"),
        ('catalogue = "data/item.jsonl"', "catalogue: there is no such file"),
    ],
)
def test_what_is_missing_is_told(told: Callable[[str], list[str]], setting: str, said: str) -> None:
    (found,) = told(setting)
    assert f"recipes.first.settings.{said}" in found


def test_what_is_there_is_no_problem(told: Callable[[str], list[str]]) -> None:
    assert told('rewards = ["hits"]\ncatalogue = "data/items.jsonl"') == []
    assert len(told("rewards = 3")) == 1, "what has the wrong type is told once"


@pytest.mark.parametrize(
    "text",
    [
        "def reward(a, b): ...",
        "reward = str",
        "from json import loads as reward",
        "from json import *",
        "if True:\n    def reward(a, b): ...",
    ],
)
def test_a_name_may_come_about_in_many_ways(tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(text)
    assert rooms.may_define(file, "reward")
    file.write_text("def other(a, b):\n    reward = 1\n")
    assert not rooms.may_define(file, "reward")


def test_what_ptw_brings_is_what_its_recipes_ask_for() -> None:
    there = rooms.files(None, "rewards")
    assert rooms.rewards_named(rooms.files(None, "recipes")["grpo"])["rewards"] == ("reward",)
    assert rooms.may_define(there["hits"], "relevance")
    assert rooms.rewards_named(rooms.files(None, "recipes")["sft"]) == {}
