"""Does a reward rise that only trying can raise, with vLLM drawing? In the environment of `make test-rl`."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.report import Figure, publish, real_data
from benchmarks.workspaces import ptw, workspace

HEAD = 32  # vLLM's attention on a CPU takes heads of a multiple of it; those of stories260K have 8
STARTS = """Once upon a time|One day|Tom and Lily|The little dog|A girl named Sue|In the park|There was a cat
Ben had a ball|Mom said|The sun was|A big bear|It was a rainy day|Sam and Tim|The old man|Lucy saw
Every day"""
HAPPY = '''"""1 where the story has the word."""


def reward(answer: str, row: dict) -> float:
    return float("happy" in answer)
'''
TOML = """
[workspace]
name = "grpo"

[models.actor]
hf = "actor"

[tokenizers.stories]
hf = "actor"

[datasets.starts]
source = "data/starts.jsonl"
format = "prompt"

[datasets.problems]
source = "data/problems.jsonl"
format = "prompt"

[recipes.happy]
recipe = "grpo"
model = "actor"
tokenizer = "stories"
dataset = "starts"
eval_dataset = "starts"
[recipes.happy.settings]
rewards = ["happy"]
steps = 30
rows = 8
answers = 8
window = 96
max_new_tokens = 48
rows_at_once = 16
learning_rate = 5e-4
schedule = "constant"
eval_every = 1000

[recipes.gsm8k]
recipe = "grpo"
model = "actor"
tokenizer = "stories"
dataset = "problems"
[recipes.gsm8k.settings]
rewards = ["number"]
steps = 4
rows = 8
answers = 8
window = 512
max_new_tokens = 48
learning_rate = 5e-4
"""


def main() -> None:
    stories, problems = real_data("stories260K") / "hf", real_data("gsm8k")
    with workspace(TOML) as root:
        widened(stories, root / "actor")
        starts = [{"prompt": start} for line in STARTS.splitlines() for start in line.split("|")]
        write(root / "data" / "starts.jsonl", starts)
        write(root / "data" / "problems.jsonl", short_problems(problems))
        (root / "rewards").mkdir()
        (root / "rewards" / "happy.py").write_text(HAPPY, encoding="utf-8")
        began = time.perf_counter()
        ptw(root, "train", "happy")
        minutes = (time.perf_counter() - began) / 60
        ptw(root, "train", "gsm8k")
        figures = [
            *happy_figures(root / "runs" / "happy-001", minutes),
            *gsm8k_figures(root / "runs" / "gsm8k-001"),
        ]
    about = (
        "GRPO on stories260K with its heads widened to 32 (the same numbers, 444,352 parameters): 16 "
        "beginnings, 8 answers of 48 tokens to each of 8 a step, 1 where a story has the word happy; vLLM "
        "draws on the same 2 cores; gsm8k: the same actor, to show that it runs"
    )
    publish("grpo", about, figures)


def happy_figures(run: Path, minutes: float) -> list[Figure]:
    lines = lines_of(run)
    steps = [line for line in lines if line["kind"] == "train"]
    measured = [line["held_out_reward"] for line in lines if line["kind"] == "eval"]
    reached = next((step["step"] for step in steps if step["reward"] > 0.8), float("nan"))
    later = steps[1:]  # the first one waits for the engine
    drawn = sum(step["length"] for step in later) * 64
    return [
        Figure("happy: reward of the first step", steps[0]["reward"], want=0.3),
        Figure("happy: reward of the last 5 steps", mean(steps[-5:], "reward"), want=0.8, better="more"),
        Figure("happy: first step above 0.8", reached, want=30),
        Figure("happy: reward of new answers, before", measured[0]),
        Figure("happy: reward of new answers, after", measured[-1], want=0.8, better="more"),
        Figure("happy: the whole run, engine's start included", minutes, "min", want=15),
        Figure("happy: largest gap of a step", max(step["gap"] for step in steps), want=1.05),
        Figure("happy: tokens drawn", drawn / sum(s["generate_seconds"] for s in later), "tokens/s"),
        *(
            Figure(f"happy: {what} in a step", mean(later, f"{what}_seconds"), "s")
            for what in ("sync", "generate", "reward", "score")
        ),
        Figure("happy: learning in a step", mean(later, "seconds"), "s"),
    ]


def gsm8k_figures(run: Path) -> list[Figure]:
    steps = [line for line in lines_of(run) if line["kind"] == "train"]
    return [
        Figure("gsm8k: steps", len(steps), want=4, better="more"),
        Figure("gsm8k: largest gap of a step", max(step["gap"] for step in steps), want=1.05),
        Figure("gsm8k: reward", mean(steps, "reward")),
    ]


def widened(source: Path, folder: Path) -> None:
    """The same function with heads of 32: rotated pairs lie where the longer head turns as fast, queries are
    longer by what the softmax's scale is smaller, and all else is 0."""
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    head = config["hidden_size"] // config["num_attention_heads"]
    at = torch.arange(head // 2) * (HEAD // head)
    at = torch.cat([at, at + HEAD // 2])

    def rows(matrix: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        heads = matrix.view(-1, head, matrix.shape[-1])
        wide = heads.new_zeros(len(heads), HEAD, matrix.shape[-1])
        wide[:, at] = heads * scale
        return wide.flatten(0, 1).contiguous()

    tensors = {}
    for name, matrix in load_file(source / "model.safetensors").items():
        if name.endswith("q_proj.weight"):
            matrix = rows(matrix, (HEAD / head) ** 0.5)
        elif name.endswith(("k_proj.weight", "v_proj.weight")):
            matrix = rows(matrix)
        elif name.endswith("o_proj.weight"):
            matrix = rows(matrix.T.contiguous()).T.contiguous()
        tensors[name] = matrix
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"head_dim": HEAD}), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())


def short_problems(folder: Path) -> list[dict[str, Any]]:
    """Problems that fit into the window of a model of 512 positions."""
    (file,) = folder.glob("*train*.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        {"prompt": row["question"], "answer": row["answer"]} for row in rows if len(row["question"]) < 200
    ][:64]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def mean(steps: list[dict[str, Any]], key: str) -> float:
    return sum(step[key] for step in steps) / len(steps)


if __name__ == "__main__":
    main()
