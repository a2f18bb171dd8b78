"""Do lists of titles become better by Rank-GRPO, for people whom it never saw?

The 200 most bought items of amazon-beauty, and the users with at least four of them: a decoder from scratch
learns by SFT to answer a history of some users with the next three titles, then Rank-GRPO rewards its own
answers to others by the rank of their hits. A fifth of the users is held out of both.
`python -m benchmarks.rank_grpo`
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import log2
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.report import Figure, publish, real_data, two_threads
from benchmarks.workspaces import llama, ptw, workspace

POPULAR, LISTED, HISTORY = 200, 3, 5  # items; titles of a list, and of a prompt
PARTS = 5  # of the users: one is held out, two are learnt by SFT, two asked by RL
STEPS = 200
TOML = f"""
[workspace]
name = "rank-grpo"
{llama("shape", layers=4, heads=4)}
[tokenizers.titles]
learn_from = "lists"
vocab_size = 1000

[datasets.lists]
source = "data/lists.jsonl"
format = "chat"

[datasets.held-out-lists]
source = "data/held-out-lists.jsonl"
format = "chat"

[datasets.asked]
source = "data/asked.jsonl"
format = "prompt"

[datasets.held-out]
source = "data/held-out.jsonl"
format = "prompt"

[recipes.teach]
recipe = "sft"
model = "shape"
tokenizer = "titles"
dataset = "lists"
eval_dataset = "held-out-lists"
settings = {{ window = 512, rows = 8, learning_rate = 2e-3, epochs = 8 }}
"""
RL = """
[models.taught]
hf = "runs/teach-001/model"

[recipes.rank]
recipe = "rank_grpo"
model = "taught"
tokenizer = "titles"
dataset = "asked"
eval_dataset = "held-out"
[recipes.rank.settings]
engine = "ptw"
rewards = ["hits"]
catalogue = "data/titles.txt"
titles = %d
weigh = "tokens"
steps = %d
rows = 16
answers = 16
window = 256
max_new_tokens = 56
rows_at_once = 16
learning_rate = 5e-5
schedule = "constant"
eval_every = 100
"""
User = tuple[list[str], list[str]]  # what is known, and what comes next


def main() -> None:
    source = real_data("amazon-beauty")
    two_threads()
    with workspace(TOML) as root:
        known, held_out = written(source, root / "data")
        ptw(root, "train", "teach")
        with (root / "workspace.toml").open("a", encoding="utf-8") as file:
            file.write(RL % (LISTED, STEPS))
        ptw(root, "train", "rank")
        found = list(figures(root / "runs", known, held_out))
    about = (
        f"the {POPULAR} most bought items of amazon-beauty: SFT of a llama of 4 layers on lists of {LISTED} "
        f"titles, then {STEPS} steps of 16 prompts of other users, 16 answers each, drawn by the port; NDCG "
        f"of one drawn answer to each of {len(held_out)} prompts of users that neither saw"
    )
    publish("rank_grpo", about, found)


def figures(runs: Path, known: Sequence[User], held_out: Sequence[User]) -> Iterator[Figure]:
    taught = lines_of(runs / "teach-001", "eval")
    yield Figure("sft: held-out loss, before", taught[0]["held_out_loss"])
    yield Figure("sft: held-out loss, after", taught[-1]["held_out_loss"])
    popular = [title for title, _ in Counter(title for _, titles in known for title in titles).most_common()]
    yield Figure("NDCG of the most popular titles not in the history", popularity(popular, held_out))
    measured = lines_of(runs / "rank-001", "eval")
    before, after = (one["held_out_reward"] for one in (measured[0], measured[-1]))
    yield Figure("NDCG after SFT", before)
    yield Figure("NDCG after Rank-GRPO", after, want=before, better="more")
    steps = lines_of(runs / "rank-001", "train")
    yield Figure("NDCG of the answers learnt from, first 20 steps", mean(s["reward"] for s in steps[:20]))
    yield Figure("NDCG of the answers learnt from, last 20 steps", mean(s["reward"] for s in steps[-20:]))


def popularity(popular: Sequence[str], users: Iterable[User]) -> float:
    """What a ranker that learns nothing gets by the same measure."""
    ideal = sum(1 / log2(at + 2) for at in range(LISTED))
    found = []
    for history, relevant in users:
        first = [title for title in popular if title not in history][:LISTED]
        found.append(sum((title in relevant) / log2(at + 2) for at, title in enumerate(first)) / ideal)
    return mean(found)


def written(source: Path, data: Path) -> tuple[list[User], list[User]]:
    """The workspace's data; whom SFT learns from, and who is held out."""
    items = map(json.loads, (source / "items.jsonl").read_text(encoding="utf-8").splitlines())
    title_of = {str(item["id"]): item["text"] for item in items}
    rows = [line.split()[1:] for line in (source / "sequences.txt").read_text().splitlines()]
    popular = {item for item, _ in Counter(item for row in rows for item in row).most_common(POPULAR)}
    (data / "titles.txt").write_text("\n".join(title_of[item] for item in sorted(popular)), encoding="utf-8")
    users = [[title_of[item] for item in row if item in popular] for row in rows]
    users = [titles for titles in users if len(titles) > LISTED]
    held_out, known, asked = (list(points(users, parts)) for parts in ({0}, {1, 2}, {3, 4}))
    for prefix, those in (("", known), ("held-out-", held_out)):
        dump(data / f"{prefix}lists.jsonl", ({"messages": chat(*user)} for user in those))
    dump(data / "asked.jsonl", (prompt(*user) for user in asked))
    dump(data / "held-out.jsonl", (prompt(*user) for user in held_out))
    return known, held_out


def points(users: Sequence[list[str]], parts: set[int]) -> Iterator[User]:
    """Each point of the histories of the users of these parts."""
    for place, titles in enumerate(users):
        if place % PARTS in parts:
            yield from (at(titles, end) for end in range(1, len(titles) - LISTED + 1))


def at(titles: Sequence[str], end: int) -> User:
    return [*titles[max(0, end - HISTORY) : end]], [*titles[end : end + LISTED]]


def prompt(history: Sequence[str], relevant: Sequence[str]) -> dict[str, Any]:
    return {"prompt": "\n".join(history), "relevant": [*relevant], "titles": LISTED}


def chat(history: Sequence[str], relevant: Sequence[str]) -> list[dict[str, str]]:
    asked = {"role": "user", "content": "\n".join(history)}
    return [asked, {"role": "assistant", "content": "\n".join(relevant)}]


def dump(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def lines_of(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == kind]


if __name__ == "__main__":
    main()
