"""What do fields of events bring, and what do merges of their tokens save, on the service of `ptw init`?

Three models of the same size learn the next title: from titles alone, with what is known before each of them
(the time since the last one, and the device), and also with what is known after it (for how long it was
watched). The step that is published is chosen on the validation titles; the figures are those of the test.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import Figure, publish
from benchmarks.workspaces import figures_of, ptw

BEFORE = """
[tokenizers.{name}.fields.since]
key = "times"
part = "gap"
bounds = [14400, 172800, 1209600]
known = "before"
[tokenizers.{name}.fields.device]
values = ["tv", "tablet", "phone", "web"]
known = "before"
"""
AFTER = """
[tokenizers.{name}.fields.seconds]
bounds = [600, 1800]
known = "after"
"""
TOKENIZER = """
[tokenizers.{name}]
items = "data/items.jsonl"
{merges}
{fields}
"""
RECIPE = """
[recipes.{name}]
recipe = "pretrain"
model = "recommender"
tokenizer = "{tokenizer}"
dataset = "viewings"
[recipes.{name}.settings]
steps = {steps}
window = 512
rows = 4
learning_rate = 3e-3
eval_every = 100
keep_best = true
"""
MERGES = 'merges = 20\nmerges_from = "viewings"'
TOKENIZERS = {  # name -> merges, fields
    "before-merged": (MERGES, BEFORE),
    "all-merged": (MERGES, BEFORE + AFTER),
    "all": ("", BEFORE + AFTER),
}
RECIPES = {  # name -> tokenizer, steps: a sequence with fields has more tokens
    "titles-alone": ("titles", 400),
    "with-before": ("before-merged", 400),
    "with-all": ("all-merged", 600),
}
FIGURES = ("recall@10", "ndcg@10")


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # no figure is a speed
    with TemporaryDirectory(prefix="ptw-benchmark-") as folder:
        ptw(Path(folder), "init", "service")
        root = Path(folder) / "service"
        declare(root)
        figures = [*lengths(root), *ranking(root)]
    about = (
        "1,500 simulated members, 400 titles; a llama of 2 blocks and width 64; the test is the last title"
    )
    publish("event_fields", about, figures)


def declare(root: Path) -> None:
    tables = [
        TOKENIZER.format(name=name, merges=merges, fields=fields.format(name=name))
        for name, (merges, fields) in TOKENIZERS.items()
    ]
    tables += [
        RECIPE.format(name=name, tokenizer=tokenizer, steps=steps)
        for name, (tokenizer, steps) in RECIPES.items()
    ]
    with (root / "workspace.toml").open("a", encoding="utf-8") as file:
        file.write("".join(tables))


def lengths(root: Path) -> Iterator[Figure]:
    """Of the training part's sequences, with all fields."""
    tokens = {}
    for name in ("titles", "all", "all-merged"):
        survey = figures_of(root, "data", "viewings", "--tokenizer", name, "--window", "2048", "--all")
        tokens[name] = sum(int(part["tokens"]) for part in survey["parts"])
        yield Figure(f"{name}: tokens of all sequences", tokens[name])
    saved = 1 - tokens["all-merged"] / tokens["all"]
    yield Figure("all-merged: shorter than all by", saved, want=0.1, better="more")


def ranking(root: Path) -> Iterator[Figure]:
    """Of the model with titles alone, then how much those with fields are better, on the same sequences."""
    for recipe in RECIPES:
        ptw(root, "train", recipe)
    first, *others = (f"{recipe}-001" for recipe in RECIPES)
    found = figures_of(root, "eval", first, *others, "--compare", "--attribute", "none")
    for run in (first, *others):
        for figure in FIGURES:
            yield Figure(f"{run.removesuffix('-001')}: {figure}", found["figures"][run][figure]["value"])
    for run in others:
        for figure in FIGURES:
            low = found["differences"][run][figure]["interval"][0]
            name = f"{run.removesuffix('-001')}: {figure} less that of titles alone, at least (95%)"
            # what is known after tells of later titles only, and makes a sequence longer to learn
            yield Figure(name, low, want=0 if run.startswith("with-before") else None, better="more")


if __name__ == "__main__":
    main()
