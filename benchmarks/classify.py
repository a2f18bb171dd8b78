"""Which attributes has an item by its text, and how many steps has a problem's solution?"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, publish, real_data
from benchmarks.workspaces import figures_of, ptw, workspace

ATTRIBUTES = 50  # the most frequent ones
HELD_OUT = 10  # every tenth item
TOML = """
[workspace]
name = "classify"

[models.small.config]
model_type = "llama"
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 4
max_position_embeddings = 512
tie_word_embeddings = true
"""
TASK = """
[tokenizers.{name}]
learn_from = "{name}"
vocab_size = 2048

[datasets.{name}]
source = "data/{name}.jsonl"
format = "labelled"

[datasets.{name}-held-out]
source = "data/{name}-held-out.jsonl"
format = "labelled"

[recipes.{name}]
recipe = "classify"
model = "small"
tokenizer = "{name}"
dataset = "{name}"
eval_dataset = "{name}-held-out"

[recipes.{name}.settings]
head = "{head}"
window = 512
rows = 2
learning_rate = 2e-3
warmup = 20
eval_every = 1000
"""
TASKS = {
    "attributes": ("labels", 'catalogue = "data/names.jsonl"\nepochs = 5\n'),
    "steps": ("number", "epochs = 1\n"),
}
KEYS = {"attributes": ("micro_f1", "macro_f1", "mean_average_precision"), "steps": ("mse", "mae", "spearman")}
BASELINES = {"attributes": "frequencies", "steps": "mean"}


def main() -> None:
    items, problems = real_data("amazon-beauty"), real_data("gsm8k")
    toml = TOML + "".join(TASK.format(name=name, head=head) + more for name, (head, more) in TASKS.items())
    with workspace(toml) as root:
        counts = {
            "attributes": write_items(items / "items.jsonl", root / "data"),
            "steps": write_problems(problems, root / "data"),
        }
        figures = [figure for name in TASKS for figure in measured(root, name)]
    about = (
        f"a llama of 2 layers of 64 from scratch; attributes: any of the {ATTRIBUTES} most frequent ones of "
        f"an item of amazon-beauty, from its text ({told(counts['attributes'])}, 5 epochs); steps: how many "
        "calculations the solution of a problem of gsm8k has, from its question "
        f"({told(counts['steps'])}, 1 epoch); beside what the training data's frequencies, or its mean, say"
    )
    publish("classify", about, figures)


def told(counts: tuple[int, int]) -> str:
    return f"{counts[0]:,} to learn from, {counts[1]:,} held out"


def measured(root: Path, name: str) -> list[Figure]:
    """The loss before and after, and the figures beside the baseline's."""
    ptw(root, "train", name)
    lines = [json.loads(line) for line in (root / f"runs/{name}-001/metrics.jsonl").read_text().splitlines()]
    losses = [line["held_out_loss"] for line in lines if line["kind"] == "eval"]
    found = figures_of(root, "eval", name)
    figures = [
        Figure(f"{name}, held-out loss: {when}", loss)
        for when, loss in (("before", losses[0]), ("after", losses[-1]))
    ]
    baseline = BASELINES[name]
    for key in KEYS[name]:
        for who, scorer in (("model", f"{name}-001"), (baseline, baseline)):
            figures.append(Figure(f"{name}, {key}: {who}", spoken(**found["figures"][scorer][key])))
    return figures


def spoken(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def write_items(source: Path, data: Path) -> tuple[int, int]:
    """Items with their attributes, every tenth aside; how many there are of each."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    counts = Counter(attribute for row in rows for attribute in row["attributes"])
    kept = [attribute for attribute, _ in counts.most_common(ATTRIBUTES)]
    write(data / "names.jsonl", ({"id": attribute} for attribute in kept))
    labelled = [
        {"text": row["text"], "labels": [one for one in row["attributes"] if one in kept]}
        for row in rows
        if row["text"].strip()
    ]
    held_out = labelled[::HELD_OUT]
    learnt = [row for at, row in enumerate(labelled) if at % HELD_OUT]
    write(data / "attributes.jsonl", learnt)
    write(data / "attributes-held-out.jsonl", held_out)
    return len(learnt), len(held_out)


def write_problems(source: Path, data: Path) -> tuple[int, int]:
    """Questions with how many calculations their answers mark; how many there are of each."""
    sizes = []
    for file, name in (("train", "steps"), ("test", "steps-held-out")):
        text = (source / f"{file}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        write(
            data / f"{name}.jsonl",
            ({"text": row["question"], "number": row["answer"].count("<<")} for row in rows),
        )
        sizes.append(len(rows))
    return sizes[0], sizes[1]


def write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
