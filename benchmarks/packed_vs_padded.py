"""How many times the speed of padded training is packed training, on the same documents?"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.mix import SHARES, mixed
from benchmarks.report import Figure, medians, publish, two_threads

WINDOW = 4096
BATCH = 8  # documents of a padded batch; a packed step is one row
DOCUMENTS = 128
ROUNDS = 3

Document = tuple[np.ndarray, np.ndarray]  # ids and targets
Attention = Literal["whole rows", "dense", "documents"]
MASKED = "padded, behind a mask"
LEAN = "padded, no attention to padding"


def main() -> None:
    from ptw.train.worker import tiny_as_zero

    two_threads()
    with mixed() as root, tiny_as_zero():
        documents = documents_of(root)
        packed = pack(documents)
        padded = [documents[start : start + BATCH] for start in range(0, len(documents), BATCH)]
        step = Step(root)
        works = {
            "packed": lambda: step.all_packed(packed),
            # padding on the right of a causal row needs no mask: the quickest way to compute all of it
            "padded": lambda: step.all_padded(padded, "whole rows"),
            MASKED: lambda: step.all_padded(padded, "dense"),
            LEAN: lambda: step.all_padded(padded, "documents"),
        }
        taken = medians(works, ROUNDS)
    real = sum(len(ids) for ids, _ in documents)
    bound = sum(len(batch) * max(len(ids) for ids, _ in batch) for batch in padded) / real
    figures = [Figure(f"{name}: tokens/s", real / took) for name, took in taken.items()]
    ratios = {name: took / taken["packed"] for name, took in taken.items() if name != "packed"}
    figures += [
        Figure("packing efficiency", real / (len(packed) * WINDOW)),
        Figure("bound: padded tokens / real tokens", bound),
        *(Figure(f"packed / {name}", ratio) for name, ratio in ratios.items()),
        Figure("packed / padded, of the bound", ratios["padded"] / bound, want=0.95, better="more"),
        # it spends no attention on padding, so that the bound asks more of packing than there is to gain
        Figure(f"packed / {LEAN}, of the bound", ratios[LEAN] / bound),
    ]
    publish("packed_vs_padded", about(), figures)


def about() -> str:
    return (
        "forward, backward and AdamW of stories260K, fp32, numbers below 1e-38 as 0 (as in `ptw train`), on "
        f"{DOCUMENTS} samples of {SHARES}; packed: rows of {WINDOW}; padded: to the longest in a shuffled "
        f"batch of {BATCH}; tokens/s counts real tokens only; medians of {ROUNDS} alternating rounds"
    )


def documents_of(root: Path) -> list[Document]:
    """The first samples of the shuffled mix, each alone: ids, and the token that follows each."""
    from ptw.data.stream import Stream
    from ptw.tokens.declared import open_tokenizer
    from ptw.workspace.manifest import read

    declared = read(root)
    tokenizer = open_tokenizer(declared, "stories")
    stream = Stream(root, declared.datasets["blend"], tokenizer, window=WINDOW, seed=0, epochs=1)
    documents: list[Document] = []
    for row in stream:
        bounds = np.cumsum(row.lengths)[:-1]
        ids = np.split(row.ids[: sum(row.lengths)], bounds)
        documents += zip(ids, np.split(row.targets[: sum(row.lengths)], bounds), strict=True)
    # a packer draws documents that fit together: batches of the padded side are drawn anew
    random.Random(0).shuffle(documents)
    return documents[:DOCUMENTS]


def pack(documents: Sequence[Document]) -> list[list[Document]]:
    """Rows of at most WINDOW tokens, by best fit: what the stream does, on exactly these documents."""
    rows: list[list[Document]] = []
    room: list[int] = []
    for document in sorted(documents, key=lambda document: -len(document[0])):
        length = len(document[0])
        fits = [number for number, left in enumerate(room) if left >= length]
        if fits:
            best = min(fits, key=lambda number: room[number])
            rows[best].append(document)
            room[best] -= length
        else:
            rows.append([document])
            room.append(WINDOW - length)
    return rows


class Step:
    """One training step of the model, packed or padded."""

    def __init__(self, root: Path) -> None:
        from ptw.ports.load import load

        self.module: Any = load(root / "stories", root).module
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-5)

    def all_packed(self, rows: Sequence[Sequence[Document]]) -> None:
        for row in rows:
            self.learn([row], WINDOW, "documents")

    def all_padded(self, batches: Sequence[Sequence[Document]], attention: Attention) -> None:
        for batch in batches:
            longest = max(len(ids) for ids, _ in batch)
            self.learn([[document] for document in batch], longest, attention)

    def learn(self, rows: Sequence[Sequence[Document]], width: int, attention: Attention) -> None:
        from ptw.nn.layout import Layout

        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        targets = torch.full((len(rows), width), -100)
        for number, row in enumerate(rows):
            joined = np.concatenate([document[0] for document in row])
            ids[number, : len(joined)] = torch.from_numpy(joined)
            targets[number, : len(joined)] = torch.from_numpy(np.concatenate([d[1] for d in row]))
        if attention == "whole rows":
            layout = Layout.of_documents([[width]] * len(rows), backend="documents")
        else:
            lengths = [[len(document[0]) for document in row] for row in rows]
            layout = Layout.of_documents(lengths, width, backend=attention)
        loss = self.module.head().loss(self.module(ids, layout), targets) / (targets != -100).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


if __name__ == "__main__":
    main()
