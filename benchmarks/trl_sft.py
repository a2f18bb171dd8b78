"""How many times TRL's speed is ptw's, at the same SFT: same chats, masks, model, settings and machine?

TRL needs an environment of its own:
    python -m venv trl && trl/bin/pip install -c constraints.txt torch==2.13.0 trl==1.16.0 datasets
    python -m benchmarks.trl_sft trl/bin/python
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.oasst import write_chats
from benchmarks.report import THREADS, Figure, publish, real_data, two_threads
from benchmarks.workspaces import figures_of, ptw, workspace

WINDOW, ROWS, EPOCHS, RATE = 512, 8, 2, 1e-3
ROUNDS = 3
TRIED = {"8 rows at once": 8, "1 row at once": 1}  # both once; TRL's quicker way counts, and is repeated
TINY = "with tiny numbers as 0"  # beside it: TRL leaves torch.set_flush_denormal as it is, ptw does not
TOML = f"""
[workspace]
name = "beside-trl"

[models.stories]
hf = "stories"

[models.of-trl]
hf = "of-trl"

[tokenizers.stories]
hf = "stories"

[datasets.chats]
source = "data/train.jsonl"
format = "chat"
too_long = "truncate"

[datasets.held-out]
source = "data/held_out.jsonl"
format = "chat"
too_long = "truncate"

[recipes.chat-sft]
recipe = "sft"
model = "stories"
tokenizer = "stories"
dataset = "chats"

[recipes.chat-sft.settings]
epochs = {EPOCHS}
learning_rate = {RATE}
window = {WINDOW}
rows = {ROWS}
"""


@dataclass(frozen=True)
class Side:
    """One training: seconds of its steps, and the loss of the model on held-out trees."""

    seconds: float
    steps: float
    held_out: float


def main(python: Path) -> None:
    stories, trees = real_data("stories260K") / "hf", real_data("oasst")
    two_threads()
    with workspace(TOML, {"stories": stories}) as root:
        shutil.copytree(stories, root / "of-trl")  # until TRL has trained its own
        counts = write_chats(trees, root / "data" / "train.jsonl", root / "data" / "held_out.jsonl")
        tokens = write_ids(root, root / "data" / "ids.jsonl") * EPOCHS
        sides = {f"TRL, {name}": [theirs(root, python, rows)] for name, rows in TRIED.items()}
        best = min(sides, key=lambda name: sides[name][0].seconds)
        rows, tiny = TRIED[best.removeprefix("TRL, ")], f"{best}, {TINY}"
        sides[tiny], sides["ptw"] = [theirs(root, python, rows, tiny_as_zero=True)], [ours(root)]
        for _ in range(ROUNDS - 1):  # side by side: the machine's speed drifts
            sides[best].append(theirs(root, python, rows))
            sides[tiny].append(theirs(root, python, rows, tiny_as_zero=True))
            sides["ptw"].append(ours(root))
    taken = {name: statistics.median(side.seconds for side in found) for name, found in sides.items()}
    publish("trl_sft", about(counts), list(figures(sides, taken, tokens, best)))


def figures(
    sides: Mapping[str, list[Side]], taken: Mapping[str, float], tokens: int, best: str
) -> list[Figure]:
    found = [Figure(f"{name}: tokens/s", tokens / took) for name, took in taken.items()]
    found += [Figure(f"{name}: steps", side[0].steps) for name, side in sides.items()]
    found += [Figure(f"{name}: loss, held-out trees", side[0].held_out) for name, side in sides.items()]
    return [
        *found,
        Figure(f"ptw / {best}, tokens/s", taken[best] / taken["ptw"], want=1.5, better="more"),
        Figure(f"ptw / {best}, {TINY}, tokens/s", taken[f"{best}, {TINY}"] / taken["ptw"]),
        Figure(f"ptw - {best}, held-out loss", sides["ptw"][0].held_out - sides[best][0].held_out, want=0.01),
    ]


def about(counts: tuple[int, int]) -> str:
    return (
        f"stories260K, fp32, on {counts[0]} chats of oasst, loss on answers only, rows of {WINDOW} packed "
        f"best fit, {ROWS} a step, {EPOCHS} epochs, AdamW at {RATE:g}, cosine; tokens/s counts real tokens "
        "over the seconds of the steps (of TRL: its train_runtime), on sdpa; both models measured by "
        f"`ptw eval`; medians of {ROUNDS} alternating trainings, of TRL's slower way one"
    )


def write_ids(root: Path, file: Path) -> int:
    """What ptw trains on, for TRL: ids and their labels, a document a line; how many ids."""
    from ptw.data.pack import IGNORED
    from ptw.data.stream import Stream
    from ptw.tokens.declared import open_tokenizer
    from ptw.workspace.manifest import read

    declared = read(root)
    tokenizer = open_tokenizer(declared, "stories")
    stream = Stream(root, declared.datasets["chats"], tokenizer, window=WINDOW, seed=0, epochs=1)
    count = 0
    with file.open("w", encoding="utf-8") as to:
        for row in stream:
            begin = 0
            for length in row.lengths:
                end = begin + length
                # targets are shifted, TRL's labels are not
                labels = [IGNORED, *row.targets[begin : end - 1].tolist()]
                to.write(json.dumps({"input_ids": row.ids[begin:end].tolist(), "labels": labels}))
                to.write("\n")
                count += length
                begin = end
    stream.close()
    return count


def ours(root: Path) -> Side:
    ptw(root, "train", "chat-sft")
    run = sorted((root / "runs").glob("chat-sft-*"))[-1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    held_out = figures_of(root, "eval", run.name, "--dataset", "held-out")["loss"]
    return Side(sum(step["seconds"] for step in steps), len(steps), held_out)


def theirs(root: Path, python: Path, rows_at_once: int, tiny_as_zero: bool = False) -> Side:
    wish: dict[str, Any] = {
        "model": str(root / "stories"),
        "rows": str(root / "data" / "ids.jsonl"),
        "folder": str(root / "of-trl"),
        "attention": "sdpa",
        "window": WINDOW,
        "rows_of_a_step": ROWS,
        "rows_at_once": rows_at_once,
        "epochs": EPOCHS,
        "learning_rate": RATE,
        "threads": THREADS,
        "tiny_as_zero": tiny_as_zero,
    }
    file = root / "wish.json"
    file.write_text(json.dumps(wish))
    command = [str(python), str(Path(__file__).with_name("trl_trainer.py")), str(file)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    held_out = figures_of(root, "eval", "of-trl", "--dataset", "held-out")["loss"]
    return Side(said["seconds"], said["steps"], held_out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
