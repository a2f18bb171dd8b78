"""How long does training wait for a checkpoint: for its files, or for the copy that they are written from?"""

import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.report import Figure, publish, seconds, two_threads
from ptw.nn.layout import Layout
from ptw.ports.load import create
from ptw.train import checkpoint
from ptw.train.group import Group
from ptw.train.optimize import adamw
from ptw.train.saving import Saver

ROUNDS = 5
TOKENS = 32  # of a step
VOCABULARY = 26624
CONFIG = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "intermediate_size": 2304,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
}


def main() -> None:
    two_threads()
    group = Group(0, 1, torch.device("cpu"))
    module = create(CONFIG, None, seed=0).module
    optimizer = adamw(module, 1e-4, 0.1)
    step = trainer(module, optimizer)
    next(step)
    waited = blocked_by_files(module, optimizer, group)
    alone = statistics.median(seconds(partial(next, step)) for _ in range(ROUNDS))
    first, later, beside, whole, size = blocked_by_copy(module, optimizer, group, step)
    publish(
        "checkpoints",
        f"one worker, AdamW in fp32; medians of {ROUNDS} checkpoints",
        [
            Figure("the model", sum(p.nbytes for p in module.parameters()) / 1e6, "MB"),
            Figure("a checkpoint", size / 1e6, "MB"),
            Figure("written while training waits: blocked", waited, "s"),
            Figure("written by a thread: blocked, the first", first, "s"),
            Figure("written by a thread: blocked, the others", later, "s"),
            Figure("written by a thread: until it is there", whole, "s"),
            Figure("blocked, by a thread / while training waits", later / waited, want=0.25),
            Figure("a step", alone, "s"),
            Figure("a step beside the thread", beside, "s"),
        ],
    )


def trainer(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[float]:
    """Each `next` is one step of training."""
    ids_BT = torch.randint(0, VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    while True:
        hidden_BTD = module(ids_BT, Layout.of_documents([[TOKENS]], width=TOKENS))
        loss = module.head().loss(hidden_BTD, ids_BT.roll(-1, 1)) / TOKENS  # type: ignore[operator]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def blocked_by_files(module: torch.nn.Module, optimizer: torch.optim.Optimizer, group: Group) -> float:
    """Seconds."""
    with TemporaryDirectory() as folder:

        def save(number: int) -> None:
            checkpoint.save(Path(folder), number, checkpoint.contents(module, optimizer), {}, group)

        return statistics.median(seconds(partial(save, number)) for number in range(ROUNDS))


def blocked_by_copy(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer, group: Group, step: Iterator[float]
) -> tuple[float, float, float, float, int]:
    """Seconds that the first and the others block, of a step beside the thread, until it is there; bytes."""
    blocked, beside, whole = [], [], []
    with TemporaryDirectory() as folder, Saver(Path(folder), group, checkpoint.Keep()) as saver:
        for number in range(ROUNDS + 1):
            blocked.append(seconds(partial(saver.begin, number, module, optimizer, {})))
            beside.append(seconds(partial(next, step)))
            whole.append(blocked[-1] + beside[-1] + seconds(saver.finish))
        size = sum(path.stat().st_size for path in checkpoint.complete(Path(folder))[-1].iterdir())
    return (
        blocked[0],
        statistics.median(blocked[1:]),
        statistics.median(beside),
        statistics.median(whole),
        size,
    )


if __name__ == "__main__":
    main()
