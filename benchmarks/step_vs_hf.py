"""How fast, and how large in memory, is a training step beside that of Hugging Face's own class?"""

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import THREADS, Figure, medians, peak_memory, publish, two_threads

WIDTH = 2048
ROUNDS = 5
SHAPE = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": WIDTH,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
VOCABULARY = 32_000
LARGE_VOCABULARY = 128_256


def main() -> None:
    two_threads()
    lengths = skewed_lengths()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make(Path(folder) / "model", VOCABULARY)
        steps = {
            "ptw": ours(checkpoint, lengths),
            "hf sdpa, packed": theirs(checkpoint, lengths, "sdpa", alone=False),
            "hf eager, packed": theirs(checkpoint, lengths, "eager", alone=False),
            "hf sdpa, a document at a time": theirs(checkpoint, lengths, "sdpa", alone=True),
        }
        losses = {name: step() for name, step in steps.items()}
        assert max(losses.values()) - min(losses.values()) < 1e-4, losses
        taken = medians(steps, ROUNDS)
        large = make(Path(folder) / "large", LARGE_VOCABULARY)
        peaks = {side: peak_of(side, large) for side in ("ptw", "hf")}
    best = min(took for name, took in taken.items() if name != "ptw")
    figures = [Figure(f"{name}: tokens/s", WIDTH / took) for name, took in taken.items()]
    figures += [
        Figure("ptw / the best of hf, tokens/s", best / taken["ptw"], want=1.3, better="more"),
        *(Figure(f"{side}: peak memory", peak, "GB") for side, peak in peaks.items()),
        Figure("ptw / hf, peak memory", peaks["ptw"] / peaks["hf"], want=0.6),
    ]
    publish("step_vs_hf", about(lengths), figures)


def about(lengths: list[int]) -> str:
    layers, width = SHAPE["num_hidden_layers"], SHAPE["hidden_size"]
    return (
        f"forward, loss on every token, backward and fused AdamW, fp32, llama of {layers} layers of {width}, "
        f"vocabulary of {VOCABULARY}; one row of {WIDTH} tokens in {len(lengths)} documents of "
        f"{min(lengths)} to {max(lengths)}; the same losses to 1e-4; medians of {ROUNDS} alternating rounds; "
        f"peak memory at a vocabulary of {LARGE_VOCABULARY}: the resident set of a process of its own, at "
        "Hugging Face sdpa and packed"
    )


def skewed_lengths() -> list[int]:
    """Documents that fill one row, with the spread of chats: most short, few very long."""
    draw = random.Random(0)
    lengths: list[int] = []
    while sum(lengths) < WIDTH:
        lengths.append(max(8, min(int(draw.lognormvariate(4.6, 1.0)), WIDTH - sum(lengths))))
    lengths[-1] -= sum(lengths) - WIDTH
    return [length for length in lengths if length > 1]


def make(folder: Path, vocabulary: int) -> Path:
    """A checkpoint that both sides load: the same weights."""
    from ptw.ports.export import export
    from ptw.ports.load import create

    export(create(SHAPE | {"vocab_size": vocabulary}, None, seed=0), folder)
    return folder


def batch(lengths: list[int], vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids, and targets that are shifted already: the last token of a document has none."""
    ids_BT = torch.randint(0, vocabulary, (1, sum(lengths)), generator=torch.Generator().manual_seed(0))
    targets_BT = ids_BT.roll(-1, 1)
    targets_BT[0, torch.tensor(lengths).cumsum(0) - 1] = -100
    return ids_BT, targets_BT


def ours(checkpoint: Path, lengths: list[int]) -> Callable[[], float]:
    from ptw.nn.layout import Layout
    from ptw.ports.load import load

    module: Any = load(checkpoint, None).module
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, fused=True)
    ids_BT, targets_BT = batch(lengths, module.head().vocabulary)
    learnt = (targets_BT != -100).sum()

    def step() -> float:
        layout = Layout.of_documents([lengths])
        loss = module.head().loss(module(ids_BT, layout), targets_BT) / learnt
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def theirs(checkpoint: Path, lengths: list[int], attention: str, *, alone: bool) -> Callable[[], float]:
    """Hugging Face keeps packed documents apart by position_ids, and only with use_cache=False."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation=attention)
    model.float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    ids_BT, targets_BT = batch(lengths, model.config.vocab_size)
    positions_BT = torch.cat([torch.arange(length) for length in lengths])[None]
    learnt = (targets_BT != -100).sum()
    packed = [tensor.split(lengths, 1) for tensor in (ids_BT, targets_BT, positions_BT)]
    parts = list(zip(*packed, strict=True)) if alone else [(ids_BT, targets_BT, positions_BT)]

    def step() -> float:
        total = 0.0
        for ids, targets, positions in parts:
            # the loss is Hugging Face's own, on targets that it need not shift
            loss = model(
                input_ids=ids,
                position_ids=positions,
                labels=targets,
                shift_labels=targets,
                num_items_in_batch=learnt,
                use_cache=False,
            ).loss
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def peak_of(side: str, checkpoint: Path) -> float:
    """Gigabytes of the largest resident set of a process that takes two steps."""
    command = [sys.executable, "-m", "benchmarks.step_vs_hf", side, str(checkpoint)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def two_steps(side: str, checkpoint: Path) -> None:
    torch.set_num_threads(THREADS)
    lengths = skewed_lengths()
    step = ours(checkpoint, lengths) if side == "ptw" else theirs(checkpoint, lengths, "sdpa", alone=False)
    step()
    step()
    print(peak_memory())


if __name__ == "__main__":
    if len(sys.argv) == 3:
        two_steps(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
