"""Does SFT of a small real model on real chats lower its loss on chats it has not seen?"""

import json
import time
from pathlib import Path

from benchmarks.oasst import write_chats
from benchmarks.report import Figure, publish, real_data, two_threads
from benchmarks.workspaces import figures_of, ptw, workspace

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

[recipes.chat-sft]
recipe = "sft"
model = "stories"
tokenizer = "stories"
dataset = "chats"
eval_dataset = "held-out"

[recipes.chat-sft.settings]
epochs = 2
learning_rate = 1e-3
window = 512
"""


def main() -> None:
    stories, trees = real_data("stories260K") / "hf", real_data("oasst")
    two_threads()
    with workspace(TOML, {"stories": stories}) as root:
        train, held_out = root / "data" / "train.jsonl", root / "data" / "held_out.jsonl"
        counts = write_chats(trees, train, held_out)
        before = figures_of(root, "eval", "stories", "--dataset", "held-out")
        start = time.perf_counter()
        ptw(root, "train", "chat-sft")
        took = time.perf_counter() - start
        after = figures_of(root, "eval", "chat-sft", "--dataset", "held-out")
        curve = losses(root / "runs" / "chat-sft-001")
    figures = [
        Figure("loss before, held-out trees", before["loss"]),
        Figure("loss after, held-out trees", after["loss"], want=before["loss"]),
        Figure("loss of the first training step", curve[0]),
        Figure("loss of the last training step", curve[-1]),
        Figure("training, all told", took, "s"),
    ]
    about = f"stories260K on {counts[0]} chats of 90 oasst trees, {counts[1]} chats of 10 others held out"
    publish("stories_sft", f"{about}; nats a token of the answers", figures)


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [step["loss"] for step in map(json.loads, lines) if step["kind"] == "train"]


if __name__ == "__main__":
    main()
