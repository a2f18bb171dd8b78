"""Does a teacher label each question of gsm8k once, however often the run is killed, and do its labels teach?

A llama of 4 layers learns half of the problems by SFT and answers the questions of the other half: once
undisturbed, once with its driver killed by -9 again and again. A llama of 2 layers learns what it says; both
are held to the solutions of the test set. `python -m benchmarks.label`
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, publish, real_data, two_threads
from benchmarks.workspaces import command, environment, llama, ptw, workspace


def label(name: str) -> str:
    return f"""
[recipes.{name}]
recipe = "label"
model = "teacher"
tokenizer = "words"
dataset = "questions"
settings = {{ max_new_tokens = 160, temperature = 0.7, cut_off = "keep", window = 512, rows_at_once = 32 }}
"""


KILLS, SEED, PATIENCE_SECONDS = 4, 0, 120.0
TOML = f"""
[workspace]
name = "label"
{llama("large", layers=4, heads=4)}{llama("small", layers=2, heads=4)}
[tokenizers.words]
learn_from = "problems"
vocab_size = 2048

[datasets.problems]
source = "data/problems.jsonl"
format = "chat"
too_long = "drop"

[datasets.held-out]
source = "data/held-out.jsonl"
format = "chat"
too_long = "drop"

[datasets.questions]
source = "data/questions.jsonl"
format = "prompt"

[recipes.teach]
recipe = "sft"
model = "large"
tokenizer = "words"
dataset = "problems"
eval_dataset = "held-out"
settings = {{ window = 512, rows = 8, rows_at_once = 8, learning_rate = 2e-3, warmup = 20, epochs = 4 }}

[models.teacher]
hf = "runs/teach-001/model"

{label("undisturbed")}
{label("killed")}
[datasets.said]
source = "runs/killed-001/labels.jsonl"
format = "chat"

[recipes.learn]
recipe = "sft"
model = "small"
tokenizer = "words"
dataset = "said"
eval_dataset = "held-out"
settings = {{ window = 512, rows = 8, rows_at_once = 8, learning_rate = 2e-3, warmup = 20, epochs = 4 }}
"""


def main() -> None:
    source = real_data("gsm8k")
    two_threads()
    with workspace(TOML) as root:
        questions = written(source, root / "data")
        ptw(root, "train", "teach")
        began = time.perf_counter()
        ptw(root, "train", "undisturbed")
        seconds = time.perf_counter() - began
        kills = labelled_under_kills(root, questions)
        ptw(root, "train", "learn")
        found = list(figures(root / "runs", questions, kills, seconds))
    about = (
        f"a llama of 4 layers, SFT on half of gsm8k's problems, answers the {questions:,} questions of the "
        f"other half, at temperature 0.7; the run killed by -9 and resumed; then a llama of 2 layers learns "
        "by SFT what it said"
    )
    publish("label", about, found)


def labelled_under_kills(root: Path, questions: int) -> int:
    """How often the driver was killed before the run was done."""
    draw, kills, resume = random.Random(SEED), 0, False
    folder = root / "runs" / "killed-001"
    for _ in range(KILLS):
        more = draw.randrange(questions // (2 * KILLS), questions // KILLS)
        aim = said(folder) + more
        words = command("train", "killed", *(["--resume"] if resume else []))
        driver = subprocess.Popen(words, cwd=root, env=environment())
        deadline = time.monotonic() + PATIENCE_SECONDS + more
        while driver.poll() is None and said(folder) < aim:
            assert time.monotonic() < deadline, f"fewer than {aim} of {questions} rows in time"
            time.sleep(0.05)
        if driver.poll() is None:
            driver.kill()
            kills += 1
        assert driver.wait() in (0, -signal.SIGKILL), "the run ended by itself"
        resume = True
        print(f"killed {kills} times, {said(folder)} rows said", file=sys.stderr)
    ptw(root, "train", "killed", "--resume")
    return kills


def figures(runs: Path, questions: int, kills: int, seconds: float) -> Iterator[Figure]:
    labels = [runs / name / "labels.jsonl" for name in ("undisturbed-001", "killed-001")]
    yield Figure("kills of the driver by -9", kills, want=KILLS, better="more")
    killed = runs / "killed-001"
    times = Counter(sources(killed / "labels.jsonl")) + Counter(sources(killed / "refused.jsonl"))
    yield Figure("questions labelled or refused, by name, once", sum(n == 1 for n in times.values()))
    yield Figure("questions lost", questions - len(times), want=0)
    yield Figure("questions doubled", sum(n > 1 for n in times.values()), want=0)
    same = int(labels[0].read_bytes() == labels[1].read_bytes())
    yield Figure("bytes of the labels equal those of the undisturbed run", same, want=1, better="more")
    costs = [row["cost"] for row in rows_of(labels[0])]
    yield Figure("tokens said", sum(cost["output_tokens"] for cost in costs))
    yield Figure("labelled, start and end of the command within", questions / seconds, "rows/s")
    for name in ("teach", "learn"):
        told = rows_of(runs / f"{name}-001" / "metrics.jsonl")
        losses = [line["held_out_loss"] for line in told if "held_out_loss" in line]
        yield Figure(f"{name}: loss on the test set's solutions, before", losses[0])
        yield Figure(f"{name}: loss on the test set's solutions, after", losses[-1])


def said(folder: Path) -> int:
    """How many answers are written down."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("labelled-*.jsonl"))


def sources(file: Path) -> list[str]:
    """Which row each line is of."""
    return [row["source"] for row in rows_of(file)] if file.exists() else []


def rows_of(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:  # str.splitlines parts them at more than line ends
        return [json.loads(line) for line in lines]


def written(source: Path, data: Path) -> int:
    """The workspace's data; how many questions there are to label."""
    train, test = (problems(source / f"{name}.jsonl") for name in ("train", "test"))
    dump(data / "problems.jsonl", ({"messages": chat(one)} for one in train[::2]))
    dump(data / "held-out.jsonl", ({"messages": chat(one)} for one in test))
    dump(data / "questions.jsonl", ({"prompt": one["question"]} for one in train[1::2]))
    return len(train[1::2])


def problems(file: Path) -> list[dict[str, str]]:
    return rows_of(file)


def chat(problem: dict[str, str]) -> list[dict[str, str]]:
    asked = {"role": "user", "content": problem["question"]}
    return [asked, {"role": "assistant", "content": problem["answer"]}]


def dump(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
