"""A model that was taught to answer, prompts, and two rewards."""

from pathlib import Path

import pytest

from ptw.runs import record
from tests.train.conftest import declare, make_workspace, planned, ray, trained

__all__ = ["ray"]

TOML = """
[models.taught]
hf = "{taught}"
[datasets.asked]
source = "data/asked.jsonl"
format = "prompt"
[recipes.rl]
recipe = "grpo"
model = "taught"
tokenizer = "words"
dataset = "asked"
eval_dataset = "asked"
[recipes.rl.settings]
engine = "ptw"
rewards = ["digits"]
steps = 6
rows = 4
answers = 6
rows_at_once = 3
window = 64
max_new_tokens = 8
learning_rate = 1e-2
schedule = "constant"
checkpoint_every = 2
eval_every = 100
record_samples = true
"""
DIGITS = '''
def reward(answer, row):
    """How much of an answer is digits; the row is as the file has it."""
    assert row["level"] == "easy"
    return sum(letter.isdigit() for letter in answer) / max(1, len(answer))
'''
SAME = "def reward(answer, row):\n    return 0.3\n"


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_workspace(tmp_path_factory.mktemp("taught") / "ws")
    return trained(planned(root, "chat", steps=12)).folder / record.MODEL


@pytest.fixture
def root(tmp_path: Path, taught: Path) -> Path:
    return with_rewards(tmp_path / "ws", taught)


def with_rewards(root: Path, taught: Path) -> Path:
    asked = [{"prompt": f"What is {n} and one?", "level": "easy"} for n in range(10)]
    declare(make_workspace(root), TOML.format(taught=taught), asked=asked)
    (root / "rewards").mkdir()
    (root / "rewards" / "digits.py").write_text(DIGITS)
    (root / "rewards" / "same.py").write_text(SAME)
    return root
