"""What do DPO and a reward model learn of people's preferences, after SFT, on trees that they never saw?"""

import json
from pathlib import Path
from typing import Any

from benchmarks.oasst import write_chats, write_pairs
from benchmarks.report import Figure, publish, real_data, two_threads
from benchmarks.workspaces import ptw, workspace

LOSSES = ("dpo", "ipo", "kto", "simpo")
BETA = {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "simpo": 2.0}
DATA = """
[datasets.{name}]
source = "data/{name}.jsonl"
format = "{format}"
too_long = "truncate"
"""
TOML = """
[workspace]
name = "preferences"

[models.stories]
hf = "stories"

[tokenizers.stories]
hf = "stories"

[recipes.sft]
recipe = "sft"
model = "stories"
tokenizer = "stories"
dataset = "chats"
eval_dataset = "held-out-chats"
settings = { window = 512, learning_rate = 1e-3, epochs = 2 }
"""
TAUGHT = """
[models.taught]
hf = "runs/sft-001/model"
"""
PREFERENCE = """
[recipes.{name}]
recipe = "{recipe}"
model = "taught"
tokenizer = "stories"
dataset = "pairs"
eval_dataset = "held-out-pairs"
settings = {{ window = 512, rows = 4, rows_at_once = 4, learning_rate = {rate}, epochs = 2, {more} }}
"""


def main() -> None:
    stories, trees = real_data("stories260K") / "hf", real_data("oasst")
    two_threads()
    with workspace(TOML + "".join(datasets()), {"stories": stories}) as root:
        data = root / "data"
        write_chats(trees, data / "chats.jsonl", data / "held-out-chats.jsonl")
        counts = write_pairs(trees, data / "pairs.jsonl", data / "held-out-pairs.jsonl")
        ptw(root, "train", "sft")
        with (root / "workspace.toml").open("a", encoding="utf-8") as file:
            file.writelines([TAUGHT, *recipes()])
        for name in (*LOSSES, "reward"):
            ptw(root, "train", name)
        found = [
            figure
            for name in ("sft", *LOSSES, "reward")
            for figure in figures(root / "runs" / f"{name}-001", name)
        ]
    about = (
        f"stories260K on oasst: SFT on its chats, then {counts[0]} preferences of people, {counts[1]} of "
        "other trees held out; windows of 512, 2 epochs each"
    )
    publish("preferences", about, found)


def datasets() -> list[str]:
    formats = {"chats": "chat", "pairs": "preference"}
    return [
        DATA.format(name=f"{held_out}{name}", format=format)
        for name, format in formats.items()
        for held_out in ("", "held-out-")
    ]


def recipes() -> list[str]:
    more = {loss: f'loss = "{loss}", beta = {BETA[loss]}' for loss in LOSSES}
    preferring = [PREFERENCE.format(name=loss, recipe="dpo", rate="1e-4", more=more[loss]) for loss in LOSSES]
    return [*preferring, PREFERENCE.format(name="reward", recipe="reward", rate="3e-4", more="center = 0.01")]


def figures(run: Path, name: str) -> list[Figure]:
    """Before and after, of what was held out and, of preferences, of the training pairs too."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line["kind"] == "eval"]
    keys = [key for key in measured[0] if key.startswith("held_out_") and key != "held_out_margin"]
    found = [Figure(f"{name}: {when}, {key}", line[key]) for key in keys for when, line in _ends(measured)]
    steps = [line for line in lines if line["kind"] == "train" and "accuracy" in line]
    if steps:
        quarter = max(1, len(steps) // 4)
        for when, part in (("first quarter", steps[:quarter]), ("last quarter", steps[-quarter:])):
            accuracy = sum(line["accuracy"] for line in part) / len(part)
            found.append(Figure(f"{name}: {when} of training, accuracy", accuracy))
    return found


def _ends(measured: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [("before", measured[0]), ("after", measured[-1])]


if __name__ == "__main__":
    main()
