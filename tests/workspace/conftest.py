"""A small workspace of its own for each test."""

from collections.abc import Callable
from pathlib import Path

import pytest

RECIPE = '''"""A recipe to check against."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    steps: int = 10
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    freeze: bool = False
    window: int | None = None


def train(run, settings):
    pass
'''
GOOD = """#:schema ./.ptw/schema.json
[workspace]
name = "small"

[models.scratch.config]
model_type = "llama"

[models.local]
hf = "checkpoints/local"

[tokenizers.titles]
items = "data/items.jsonl"

[tokenizers.words]
learn_from = "chats"
vocab_size = 512

[tokenizers.events]
items = "data/items.jsonl"
merges = 8
merges_from = "viewings"

[tokenizers.events.fields.device]
values = ["tv", 2, true]
known = "before"

[tokenizers.events.fields.hour]
part = "hour"
key = "times"
known = "before"

[tokenizers.events.fields.since]
part = "gap"
bounds = [3600, 86400.5]
key = "times"
known = "before"

[tokenizers.events.fields.seconds]
bounds = [60, 600]
known = "after"
learn = false

[datasets.viewings]
source = "data/viewings.jsonl"
format = "event"
leave_out = 2

[datasets.chats]
source = ["data/chats*.jsonl", "s3://bucket/chats/*.jsonl.zst"]
format = "chat"

[datasets.blend]
mix = { viewings = 0.7, chats = 3 }

[clusters.gpus]
address = "ray://head:10001"
workers = 2
gpus_per_worker = 0.5

[recipes.first]
recipe = "own"
model = "scratch"
tokenizer = "words"
dataset = "chats"
cluster = "gpus"

[recipes.first.settings]
steps = 3
learning_rate = 1
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fill(tmp_path)


@pytest.fixture
def changed(root: Path) -> Callable[[str, str], Path]:
    """The same folder with a part of GOOD replaced."""

    def change(old: str, new: str) -> Path:
        assert old in GOOD
        (root / "workspace.toml").write_text(GOOD.replace(old, new, 1))
        return root

    return change


def fill(folder: Path) -> Path:
    """All that GOOD names, and GOOD itself."""
    for inner in ("data", "recipes", "checkpoints/local"):
        (folder / inner).mkdir(parents=True)
    for name in ("items", "viewings", "chats"):
        (folder / "data" / f"{name}.jsonl").write_text("{}\n")
    (folder / "checkpoints/local/config.json").write_text('{"model_type": "llama"}')
    (folder / "recipes/own.py").write_text(RECIPE)
    (folder / "workspace.toml").write_text(GOOD)
    return folder
