"""Is what `ptw train --dry-run` says of memory what the workers of that very run then take?"""

import json
import random
from pathlib import Path

from benchmarks.parallel import CONFIG
from benchmarks.report import Figure, publish
from benchmarks.workspaces import GIVEN_BACK, ptw, workspace
from ptw.runs import lines

TINY = CONFIG | {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1}
PLANS = {
    "1 worker": "",
    "1 worker, recompute": "recompute = true",
    "2 workers": "workers = 2",
}
HEAD = """
[workspace]
name = "memory"
[tokenizers.words]
learn_from = "texts"
vocab_size = 4096
[datasets.texts]
source = "data/texts.jsonl"
format = "text"
too_long = "split"
"""
RECIPE = """
[clusters.{name}]
{cluster}
[recipes.{name}]
recipe = "pretrain"
model = "{model}"
tokenizer = "words"
dataset = "texts"
cluster = "{name}"
settings = {{ steps = 4, window = 128, rows = 4, checkpoint_every = 2 }}
"""
MB = 1e6


def main() -> None:
    toml = HEAD + shape("large", CONFIG) + shape("tiny", TINY)
    for number, cluster in enumerate(PLANS.values()):
        toml += "".join(
            RECIPE.format(name=f"{model}-{number}", cluster=cluster, model=model)
            for model in ("large", "tiny")
        )
    with workspace(toml) as root:
        write_texts(root / "data" / "texts.jsonl")
        figures = [figure for number, plan in enumerate(PLANS) for figure in compared(root, plan, number)]
    publish(
        "memory",
        "pretrain of a llama of 88.1M parameters in fp32 on a CPU, 4 steps of 4 rows of 128 tokens with a "
        "checkpoint every 2; what the dry run says, and the largest worker's resident memory at its peak, "
        "less that of the same run of a tiny model; given back: with glibc told to give back what is freed",
        figures,
    )


def compared(root: Path, plan: str, number: int) -> list[Figure]:
    measured = {
        how: peak(root, f"large-{number}", environment) - peak(root, f"tiny-{number}", environment)
        for how, environment in (("", {}), (", given back", GIVEN_BACK))
    }
    told = together(ptw(root, "train", f"large-{number}", "--dry-run"))
    figures = [Figure(f"{plan}: told", told, "MB")]
    for how, found in measured.items():
        figures.append(Figure(f"{plan}: measured{how}", found, "MB"))
        figures.append(Figure(f"{plan}: told / measured{how}", told / found))
    return figures


def together(dry_run: str) -> float:
    """MB."""
    row = next(line.split() for line in dry_run.splitlines() if line.split()[:1] == ["together"])
    return float(row[1].replace(",", "")) * {"MB": 1.0, "GB": 1000.0}[row[2]]


def peak(root: Path, recipe: str, environment: dict[str, str]) -> float:
    """MB that the worker held which held most."""
    run = root / "runs" / ptw(root, "train", recipe, **environment).strip()
    steps = [line for line in lines.read(run / "metrics.jsonl")[0] if line["kind"] == "train"]
    return float(max(line["memory_bytes"] for line in steps)) / MB


def shape(name: str, config: dict[str, object]) -> str:
    values = {key: value for key, value in config.items() if key != "vocab_size"}
    return f"\n[models.{name}.config]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())


def write_texts(file: Path) -> None:
    """Enough different words to fill the vocabulary."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(9000)]
    texts = ({"text": " ".join(draw.choices(words, k=400))} for _ in range(100))
    file.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    main()
