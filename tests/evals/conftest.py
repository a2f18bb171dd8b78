"""A run over the codes of 30 items, for the tests of what it generates."""

from pathlib import Path

import pytest

from tests.train.conftest import declare, make_workspace, planned, trained, with_codes

COLOUR = {f"item{n}": ["red", "blue", "green"][n % 3] for n in range(30)}
CODES = """
[semantic_ids.titles]
items = "data/titles.jsonl"
levels = 2
codebook_size = 8
[tokenizers.codes]
semantic_ids = "titles"
[recipes.generate]
recipe = "pretrain"
model = "tiny"
tokenizer = "codes"
dataset = "views"
[recipes.generate.settings]
steps = 30
window = 64
rows = 4
learning_rate = 1e-2
eval_every = 15
eval_sequences = 10
keep_best = true
"""


@pytest.fixture(scope="module")
def over_codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third item is red."""
    titles = [{"id": item, "title": f"Film {n}", "colour": COLOUR[item]} for n, item in enumerate(COLOUR)]
    root = make_workspace(tmp_path_factory.mktemp("codes") / "ws")
    declare(root, CODES, titles=titles, items=titles)
    names, codes = [title["id"] for title in titles], [[n % 7, n // 7] for n in range(30)]
    with_codes(root, "titles", codes, items=names, size=8, file="data/titles.jsonl")
    trained(planned(root, "generate"))
    return root


def declare_version(root: Path, version: int) -> None:
    toml = root / "workspace.toml"
    text = toml.read_text().replace("[semantic_ids.titles]", f"[semantic_ids.titles]\nversion = {version}")
    toml.write_text(text)
