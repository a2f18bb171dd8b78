"""How often does a problem's vector find its solution among those of all test problems, before and after?"""

import json
import tomllib
from pathlib import Path

from benchmarks.report import Figure, publish, real_data, two_threads
from benchmarks.workspaces import ptw, workspace

TOML = """
[workspace]
name = "embed"

[models.small.config]
model_type = "llama"
hidden_size = 128
intermediate_size = 256
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 4
max_position_embeddings = 512
tie_word_embeddings = true

[tokenizers.words]
learn_from = "problems"
vocab_size = 4096

[datasets.problems]
source = "data/train.jsonl"
format = "pair"
query_prompt = "question: "
document_prompt = "answer: "
too_long = "truncate"

[datasets.held-out]
source = "data/test.jsonl"
format = "pair"
query_prompt = "question: "
document_prompt = "answer: "
too_long = "truncate"

[recipes.find]
recipe = "embed"
model = "small"
tokenizer = "words"
dataset = "problems"
eval_dataset = "held-out"

[recipes.find.settings]
window = 512
rows = 32
rows_at_once = 8
learning_rate = 3e-3
warmup = 10
eval_every = 1000
symmetric = true
widths = [64, 32]
"""
KEYS = ("recall@1", "recall@10")


def main() -> None:
    problems = real_data("gsm8k")
    two_threads()
    with workspace(TOML) as root:
        counts = [write(problems / f"{name}.jsonl", root / "data") for name in ("train", "test")]
        ptw(root, "train", "find")
        lines = [json.loads(line) for line in (root / "runs/find-001/metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if line["kind"] == "eval"]
    declared = tomllib.loads(TOML)
    shape, settings = declared["models"]["small"]["config"], declared["recipes"]["find"]["settings"]
    prefixes = {shape["hidden_size"]: "", **{width: f"width_{width}_" for width in settings["widths"]}}
    figures = [
        Figure(f"width {width}, {key}: {when}", line[f"held_out_{prefix}{key}"])
        for width, prefix in prefixes.items()
        for key in KEYS
        for when, line in (("before", measured[0]), ("after", measured[-1]))
    ]
    about = (
        f"a llama of {shape['num_hidden_layers']} layers of {shape['hidden_size']} from scratch on "
        f"{counts[0]:,} problems of gsm8k, one epoch in steps of {settings['rows']} rows of "
        f"{settings['window']} tokens, {settings['rows_at_once']} in a pass; each of {counts[1]:,} test "
        "problems looks for its solution among all of theirs"
    )
    publish("embed", about, figures)


def write(source: Path, data: Path) -> int:
    """The problems as pairs; how many there are."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    pairs = [{"query": row["question"], "positive": row["answer"]} for row in rows]
    text = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (data / source.name).write_text(text, encoding="utf-8")
    return len(pairs)


if __name__ == "__main__":
    main()
