"""How should the rows of new tokens begin, and should they learn alone first?

A small assistant, trained from scratch on the chats of `ptw init`, gets the codes of the service's titles
and learns what members watch next: rows that begin grounded in the titles' texts, or at the mean; all of it
from the first step, or for a fifth of the steps the new rows alone. The same data, steps and seeds for each.
Rows are kept one by one in results/new_rows.jsonl; `python -m benchmarks.new_rows`
"""

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from benchmarks.report import Figure, Kept, Row, publish, two_threads
from benchmarks.workspaces import figures_of, ptw

KEPT = Kept("new_rows")
SEEDS = range(3)
STEPS, ALONE = 150, 30
INITS = ("grounded", "mean")
WAYS = ("at once", "rows first")
ASSISTANT = """
[models.taught]
hf = "runs/chat-sft-001/model"
"""
GROWN = """
[tokenizers.{init}]
hf = "runs/chat-sft-001/model"
semantic_ids = "titles"
init = "{init}"

[recipes.once-{init}]
recipe = "pretrain"
model = "taught"
tokenizer = "{init}"
dataset = "viewings"
eval_dataset = "chats-held-out"
settings = {{ steps = {steps}, {settings} }}

[recipes.rows-{init}]
recipe = "pretrain"
model = "taught"
tokenizer = "{init}"
dataset = "viewings"
eval_dataset = "chats-held-out"
settings = {{ steps = {alone}, stage = "new-rows", weight_decay = 0.0, {settings} }}
"""
THEN = """
[models.{run}]
hf = "runs/{run}/model"

[recipes.then-{run}]
recipe = "pretrain"
model = "{run}"
tokenizer = "{init}"
dataset = "viewings"
eval_dataset = "chats-held-out"
settings = {{ steps = {rest}, {settings} }}
"""
SETTINGS = "window = 512, rows = 4, learning_rate = 3e-3, eval_every = 1000, eval_sequences = 20"


def main() -> None:
    two_threads()
    with TemporaryDirectory(prefix="ptw-benchmark-") as folder:
        ptw(Path(folder), "init", "service")
        root = Path(folder) / "service"
        ptw(root, "vocab", "build", "titles")
        ptw(root, "train", "chat-sft")
        declare(root, ASSISTANT)
        for init in INITS:
            declare(root, GROWN.format(init=init, steps=STEPS, alone=ALONE, settings=SETTINGS))
        for seed, init, way in product(SEEDS, INITS, WAYS):
            if not KEPT.has(init=init, way=way, seed=seed):
                KEPT.add({"init": init, "way": way, "seed": seed, **measured(root, init, way, seed)})
    told = (
        "a qwen3 of 2 layers that was taught to chat learns what members watch next, over 3 x 32 new tokens: "
        f"{STEPS} steps of all of it, or {ALONE} of the new rows alone and then all; {len(SEEDS)} seeds"
    )
    publish("new_rows", told, list(figures()))


def measured(root: Path, init: str, way: str, seed: int) -> Row:
    given = ("--set", f"seed={seed}")
    if way == "at once":
        run = ptw(root, "train", f"once-{init}", *given).strip()
    else:
        rows = ptw(root, "train", f"rows-{init}", *given).strip()
        then = THEN.format(run=rows, init=init, rest=STEPS - ALONE, settings=SETTINGS)
        declare(root, then)
        run = ptw(root, "train", f"then-{rows}", *given).strip()
    found = figures_of(root, "eval", run, "--dataset", "viewings")
    metrics = [json.loads(line) for line in (root / "runs" / run / "metrics.jsonl").read_text().splitlines()]
    forgot = [line["held_out_loss"] for line in metrics if "held_out_loss" in line][-1]
    return {"recall@10": found["recall@10"], "ndcg@10": found["ndcg@10"], "chats": forgot}


def declare(root: Path, toml: str) -> None:
    with (root / "workspace.toml").open("a", encoding="utf-8") as file:
        file.write(toml)


def figures() -> Iterator[Figure]:
    rows = KEPT.rows()
    for init, way in product(INITS, WAYS):
        own = [row for row in rows if (row["init"], row["way"]) == (init, way)]
        for name in ("recall@10", "ndcg@10"):
            yield Figure(f"{init}, {way}: {name}", mean(float(row[name]) for row in own))
        yield Figure(f"{init}, {way}: loss on held-out chats", mean(float(row["chats"]) for row in own))


if __name__ == "__main__":
    main()
