"""What does LoRA cost and bring beside learning all weights: loss on chats not seen, bytes, memory, speed?"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.oasst import write_chats
from benchmarks.report import THREADS, Figure, medians, memory_added, publish, real_data, two_threads
from benchmarks.workspaces import figures_of, ptw, workspace
from ptw.nn.layout import Layout
from ptw.ports import adapting
from ptw.ports.adapter import Settings
from ptw.ports.load import create
from ptw.train.optimize import adamw

TOML = """
[workspace]
name = "stories"

[models.stories]
hf = "stories"

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

[recipes.full]
recipe = "sft"
model = "stories"
tokenizer = "stories"
dataset = "chats"
eval_dataset = "held-out"
settings = { learning_rate = 1e-3, window = 512, rows = 4, steps = 24, eval_every = 24 }

[recipes.lora]
recipe = "sft"
model = "stories"
tokenizer = "stories"
dataset = "chats"
eval_dataset = "held-out"
settings = { adapter = "lora", learning_rate = 1e-2, window = 512, rows = 4, steps = 24, eval_every = 24 }
"""
KINDS = ("full", "lora")
SHAPE = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
}
WIDTH, ROUNDS = 512, 3


def main() -> None:
    stories, trees = real_data("stories260K") / "hf", real_data("oasst")
    two_threads()
    with workspace(TOML, {"stories": stories}) as root:
        counts = write_chats(trees, root / "data" / "train.jsonl", root / "data" / "held_out.jsonl")
        before = figures_of(root, "eval", "stories", "--dataset", "held-out")["loss"]
        figures = [Figure("loss before, held-out trees", before)]
        for kind in KINDS:
            ptw(root, "train", kind)
            figures += figures_of_run(root, kind, before)
    taken = medians({kind: stepping(kind) for kind in KINDS}, ROUNDS, time.process_time)
    figures += [
        Figure(f"{kind}, a step of 31M: tokens per CPU second", WIDTH / took) for kind, took in taken.items()
    ]
    figures += [Figure(f"{kind}, a step of 31M: peak memory", peak_of(kind), "GB") for kind in KINDS]
    about = (
        f"stories260K, 24 steps of 2,048 tokens of {counts[0]} chats of 90 oasst trees, {counts[1]} chats of "
        "10 others held out; rank 16 on all linear layers; ten times the rate of full, chosen before any was "
        f"tried; and steps of {WIDTH} tokens of a llama of 31M parameters, medians of {ROUNDS} alternating "
        "rounds"
    )
    publish("lora_sft", about, figures)


def figures_of_run(root: Path, kind: str, before: float) -> list[Figure]:
    run = root / "runs" / f"{kind}-001"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "train"][2:]
    newest = sorted((run / "checkpoints").iterdir())[-1]
    size = sum(file.stat().st_size for file in newest.iterdir())
    speed = sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)
    after = figures_of(root, "eval", kind, "--dataset", "held-out")["loss"]
    return [
        Figure(f"{kind}: loss after, held-out trees", after, want=before),
        Figure(f"{kind}: a checkpoint", size / 1e6, "MB"),
        Figure(f"{kind}: tokens/s", speed),
    ]


def stepping(kind: str) -> Callable[[], None]:
    """A step of a model large enough for memory and speed to say something."""
    loaded = create(SHAPE, None, seed=0)
    if kind == "lora":
        adapting.begin(loaded, Settings(16, 32, adapting.all_linear(loaded)), seed=0)
    optimizer = adamw(loaded.module, 1e-4, 0.0)
    ids_BT = torch.randint(0, SHAPE["vocab_size"], (1, WIDTH))  # type: ignore[call-overload]
    layout = Layout.of_documents([[WIDTH]])

    def step() -> None:
        hidden_BTD = loaded.module(ids_BT, layout)
        loaded.module.head().loss(hidden_BTD, ids_BT.roll(-1, 1)).backward()  # type: ignore[operator]
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak_of(kind: str) -> float:
    """Gigabytes that the model and two of its steps take, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.lora_sft", kind]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def two_steps(kind: str) -> None:
    step = stepping(kind)
    step()
    step()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        torch.set_num_threads(THREADS)
        print(memory_added(lambda: two_steps(sys.argv[1])))
    else:
        main()
