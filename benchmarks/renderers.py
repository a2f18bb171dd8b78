"""How quickly do rows come to a trainer that is busy in Python, from a thread and from processes?

oasst's chats by qwen2.5's tokenizer, windows of 2,048. The trainer takes a row, then works in Python for as
long as a quick device would need to learn it, 0 to 10 ms. `python -m benchmarks.renderers`
"""

import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.oasst import write_chats
from benchmarks.report import Figure, publish, real_data
from ptw.data.stream import Stream
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.workspace.manifest import DatasetEntry

BUSY_MS, RENDERERS = (0, 2, 10), (0, 1, 2)
ROWS, REPEATS = 200, 3


def main() -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_chats(real_data("oasst"), root / "chats.jsonl", root / "held-out.jsonl")
        figures = list(measured(root, load_tokenizer(real_data("tokenizers") / "qwen2.5")))
    told = f"tokens a second over {ROWS} rows of 2,048 that the trainer took, medians of {REPEATS}"
    publish("renderers", told, figures)


def measured(root: Path, tokenizer: Tokenizer) -> Iterator[Figure]:
    for busy, renderers in product(BUSY_MS, RENDERERS):
        found = [tokens_a_second(root, tokenizer, renderers, busy / 1000) for _ in range(REPEATS)]
        who = "a thread" if not renderers else f"{renderers} process{'es' * (renderers > 1)}"
        yield Figure(f"{who}, {busy} ms of Python a row: tokens", median(found), "tokens/s")


def tokens_a_second(root: Path, tokenizer: Tokenizer, renderers: int, busy: float) -> float:
    """From the second row on: processes take seconds to begin."""
    dataset = DatasetEntry("chats", ("chats.jsonl",), "chat", too_long="truncate")
    stream = Stream(root, dataset, tokenizer, window=2048, seed=0, epochs=None, renderers=renderers)
    next(stream)
    began, taken = time.perf_counter(), 0
    for row in islice(stream, ROWS):
        taken += sum(row.lengths)
        until = time.perf_counter() + busy
        while time.perf_counter() < until:
            pass
    found = taken / (time.perf_counter() - began)
    stream.close()
    return found


if __name__ == "__main__":
    main()
