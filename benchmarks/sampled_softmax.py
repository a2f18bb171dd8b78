"""What does a step over a large catalogue cost with a softmax over all items, and over drawn ones?"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.report import THREADS, Figure, medians, memory_added, publish, two_threads
from ptw.nn.head import Head
from ptw.nn.sampled import Sampler
from ptw.train.optimize import adamw

TARGETS, WIDTH, NEGATIVES, ROUNDS = 2048, 64, 1024, 3
CATALOGUES = (100_000, 1_000_000)


class Catalogue(torch.nn.Module):
    """The table of items alone: what comes before it costs the same either way."""

    def __init__(self, items: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(items, WIDTH, generator=random) * 0.02)
        self.hidden_BTD = torch.randn(1, TARGETS, WIDTH, generator=random).requires_grad_()
        self.targets_BT = torch.randint(0, items, (1, TARGETS), generator=random)
        self.sampler = Sampler(1 / torch.arange(1.0, items + 1), NEGATIVES)
        self.sampler.of_step(0)  # lays the line of items out, once a run
        self.steps = 0

    def learn(self, sampled: bool) -> None:
        """Loss and gradients."""
        self.steps += 1
        drawn = self.sampler.of_step(self.steps) if sampled else None
        head = Head(self.table, len(self.table))
        (head.loss(self.hidden_BTD, self.targets_BT, drawn=drawn) / TARGETS).backward()

    def stepping(self) -> Callable[[bool], None]:
        """Those, and AdamW's move of the whole table."""
        optimizer = adamw(self, 1e-3, 0.0)

        def step(sampled: bool) -> None:
            self.learn(sampled)
            optimizer.step()
            optimizer.zero_grad()
            self.hidden_BTD.grad = None

        return step


def main() -> None:
    two_threads()
    figures = []
    for items in CATALOGUES:
        catalogue = Catalogue(items)
        step = catalogue.stepping()
        work = {
            "full": partial(step, False),
            "sampled": partial(step, True),
            "loss and gradient, sampled": partial(catalogue.learn, True),
        }
        taken = medians(work, ROUNDS, time.process_time)
        figures += [Figure(f"{items:,} items, {name}: a step", took, "CPU s") for name, took in taken.items()]
        figures.append(Figure(f"{items:,} items: full / sampled", taken["full"] / taken["sampled"]))
        for name in ("full", "sampled"):
            figures.append(Figure(f"{items:,} items, {name}: memory", peak_of(items, name), "GB"))
    about = (
        f"a step on {TARGETS:,} targets, width {WIDTH}, fp32: loss, gradients and AdamW on the items' table, "
        f"over all items and over {NEGATIVES:,} drawn by popularity; CPU time, medians of {ROUNDS} rounds "
        "side by side; memory is what loss and gradients add in a process of their own"
    )
    publish("sampled_softmax", about, figures)


def peak_of(items: int, name: str) -> float:
    command = [sys.executable, "-m", "benchmarks.sampled_softmax", str(items), name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def added(items: int, sampled: bool) -> float:
    catalogue = Catalogue(items)
    return memory_added(lambda: catalogue.learn(sampled))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        torch.set_num_threads(THREADS)
        print(added(int(sys.argv[1]), sys.argv[2] == "sampled"))
    else:
        main()
