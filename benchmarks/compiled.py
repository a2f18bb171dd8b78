"""What does torch.compile give a training step, and what does it take? Beside the plain step, in turn."""

import random
import time
from typing import Any

import torch
from torch._dynamo.utils import counters

from benchmarks.report import Figure, publish
from ptw.nn.layout import Layout
from ptw.ports.compiled import compile_blocks
from ptw.ports.load import create
from ptw.train.optimize import adamw

CONFIG = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
STEPS, ROWS, WINDOW = 12, 2, 512


def main() -> None:
    torch.set_num_threads(1)
    plain, compiled = (create(CONFIG, None, seed=0).module for _ in range(2))
    compile_blocks(compiled)
    models = {"plain": plain, "compiled": compiled}
    optimizers = {name: adamw(model, 1e-4, 0.1) for name, model in models.items()}
    draw = random.Random(0)
    began = time.perf_counter()
    seed = draw.random()
    losses = [{name: step(models[name], optimizers[name], seed)[0] for name in models}]
    first = time.perf_counter() - began
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(STEPS):
        seed = draw.random()
        losses.append({})
        for name, model in models.items():
            losses[-1][name], taken = step(model, optimizers[name], seed)
            seconds[name].append(taken)
    tokens = {name: ROWS * WINDOW / sorted(taken)[STEPS // 2] for name, taken in seconds.items()}
    off = max(abs(loss["compiled"] / loss["plain"] - 1) for loss in losses)
    publish(
        "compiled",
        f"a llama in fp32 with AdamW on one thread, {STEPS} steps of {ROWS} rows of {WINDOW} tokens in other "
        "documents each time; the median step by the process's CPU time",
        [
            *(Figure(f"{name}: tokens per CPU second", value) for name, value in tokens.items()),
            Figure("compiled / plain", tokens["compiled"] / tokens["plain"]),
            Figure("the first step of both, compiling", first, "s"),
            Figure("graphs, after all packings", counters["stats"]["unique_graphs"], want=4),
            Figure("loss, relative difference", off, want=1e-6),
        ],
    )


def step(model: Any, optimizer: torch.optim.Optimizer, seed: float) -> tuple[float, float]:
    """The loss of documents that the seed draws, and the seconds that the CPU took."""
    draw = random.Random(seed)
    lengths = [documents(draw) for _ in range(ROWS)]
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    ids_BT = torch.randint(0, CONFIG["vocab_size"], (ROWS, WINDOW), generator=generator)  # type: ignore[call-overload]
    began = time.process_time()
    hidden_BTD = model(ids_BT, Layout.of_documents(lengths, width=WINDOW))
    loss = model.head().loss(hidden_BTD, ids_BT.roll(-1, 1)) / ids_BT.numel()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item(), time.process_time() - began


def documents(draw: random.Random) -> list[int]:
    """Lengths that fill a row."""
    cuts = sorted(draw.sample(range(1, WINDOW), draw.randint(1, 6)))
    return [end - start for start, end in zip([0, *cuts], [*cuts, WINDOW], strict=True)]


if __name__ == "__main__":
    main()
