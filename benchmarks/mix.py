"""How full are the rows of a mix, how exact its shares, and how long does training wait for them?"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.corpora import gsm8k, oasst, self_instruct, write_rows
from benchmarks.report import Figure, publish, real_data, two_threads
from benchmarks.workspaces import ptw, workspace

WINDOWS = (1024,)
SHARES = {"oasst": 0.5, "self-instruct": 0.1, "gsm8k": 0.4}
STEPS = 60
TOML = f"""
[workspace]
name = "mix"

[models.stories]
hf = "stories"

[tokenizers.stories]
hf = "stories"

[tokenizers.qwen]
hf = "qwen2.5"

[datasets.blend]
mix = {{ {", ".join(f"{name} = {share}" for name, share in SHARES.items())} }}

[recipes.blend-sft]
recipe = "sft"
model = "stories"
tokenizer = "stories"
dataset = "blend"

[recipes.blend-sft.settings]
steps = {STEPS}
window = 512
learning_rate = 1e-3
""" + "".join(
    f'\n[datasets.{name}]\nsource = "data/{name}.jsonl"\nformat = "chat"\ntoo_long = "truncate"\n'
    for name in SHARES
)


@contextmanager
def mixed() -> Iterator[Path]:
    """A workspace with the three corpora and their mix."""
    links = {"stories": real_data("stories260K") / "hf", "qwen2.5": real_data("tokenizers") / "qwen2.5"}
    with workspace(TOML, links) as root:
        for name, rows in (("oasst", oasst), ("self-instruct", self_instruct), ("gsm8k", gsm8k)):
            write_rows(rows(real_data(name)), root / "data" / f"{name}.jsonl")
        yield root


def main() -> None:
    two_threads()
    with mixed() as root:
        figures = [figure for window in WINDOWS for figure in packed(root, window)]
        ptw(root, "train", "blend-sft")
        figures += waited(root / "runs" / "blend-sft-001")
    about = (
        f"{SHARES} of the samples; packing: one epoch, qwen2.5's tokenizer; waiting: {STEPS} steps of "
        "stories260K on the CPU, rows of 512"
    )
    publish("mix", about, figures)


def packed(root: Path, window: int) -> list[Figure]:
    """How full the rows of one epoch are, and how far the parts are from their shares."""
    from ptw.data.stream import Stream
    from ptw.tokens.declared import open_tokenizer
    from ptw.workspace.manifest import read

    declared = read(root)
    tokenizer = open_tokenizer(declared, "qwen")
    stream = Stream(root, declared.datasets["blend"], tokenizer, window=window, seed=0, epochs=1)
    tokens = sum(sum(row.lengths) for row in stream)
    counts = {name: part.used for name, part in stream.parts.items()}
    total = sum(counts.values())
    off = max(abs(counts[name] - total * share) for name, share in SHARES.items())
    return [
        Figure(f"window {window}: packing efficiency", stream.efficiency, want=0.995, better="more"),
        Figure(f"window {window}: tokens", tokens),
        Figure(f"window {window}: largest distance from a share", off, "samples", want=1),
    ]


def waited(run: Path) -> list[Figure]:
    """The part of its steps that training waited for rows."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [step for step in map(json.loads, lines) if step["kind"] == "train"]
    every = sum(step["feed_seconds"] for step in steps) / sum(step["seconds"] for step in steps)
    after = sum(s["feed_seconds"] for s in steps[1:]) / sum(s["seconds"] for s in steps[1:])
    return [
        Figure("first step: waited for rows", steps[0]["feed_seconds"], "s"),
        Figure("waited for rows, of all steps' time", every),
        Figure("waited for rows, of the time after the first step", after, want=0.01),
        Figure("training: tokens/s", sum(s["tokens"] for s in steps) / sum(s["seconds"] for s in steps)),
    ]


if __name__ == "__main__":
    main()
