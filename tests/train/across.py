"""What is in a checkpoint, as two processes see it that hold a model between them? Runs in each of them.

`python -m tests.train.across CHECKPOINT OUT PLAN`, the plan being "tensor" or "experts": loads it, keeps what
was loaded, trains on, keeps that, and saves it while it trains on.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from ptw.nn.layout import Layout
from ptw.ports.load import create
from ptw.ports.parallel import whole
from ptw.train import checkpoint
from ptw.train.group import Group, joined
from ptw.train.optimize import adamw
from ptw.train.parallel import spreading
from ptw.train.saving import Saver
from ptw.workspace.manifest import ClusterEntry

CONFIG = {
    "model_type": "qwen3_moe",
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
}


def opened(group: Group, seed: int, experts: int = 1) -> tuple[Any, torch.optim.Optimizer]:
    """The model and its optimizer, in fp32."""
    cluster = ClusterEntry("test", workers=group.world, tensor=group.tensor, experts=experts)
    spread = spreading(cluster, group, "fp32", "model test")
    module = create(CONFIG, None, seed=seed, spread=spread).module
    return module, adamw(module, 1e-2, 0.1)


def train(module: Any, optimizer: torch.optim.Optimizer, steps: int, group: Group) -> list[float]:
    """The losses of some steps, over all workers."""
    own = slice(group.data_rank, None, group.data_world)
    ids_BT = torch.randint(0, CONFIG["vocab_size"], (2, 16), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(steps):
        hidden_BTD = module(ids_BT[own], Layout.of_documents([[16], [9, 7]][own], width=16))
        loss = module.head().loss(hidden_BTD, ids_BT.roll(-1, 1)[own]) / ids_BT.numel()
        (loss * group.data_world).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses += group.sum(group.once(loss.item()))
    return losses


def contents(module: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Every full parameter, and what the optimizer keeps of it."""
    found = {}
    for name, parameter in module.named_parameters():
        found[name] = whole(parameter.detach()).clone()
        for key, value in optimizer.state[parameter].items():
            found[f"{name}: {key}"] = whole(value).clone()
    return found


def main(folder: Path, out: Path, plan: str) -> None:
    torch.set_num_threads(1)
    with joined() as workers:
        tensor, experts = (workers.world if plan == key else 1 for key in ("tensor", "experts"))
        group = Group(workers.rank, workers.world, workers.device, tensor)
        module, optimizer = opened(group, 5, experts)
        checkpoint.load(folder, module, optimizer)
        found = {"loaded": contents(module, optimizer)}
        found["losses"] = torch.tensor(train(module, optimizer, 3, group))  # type: ignore[assignment]
        found["trained"] = contents(module, optimizer)
        with Saver(out, group, checkpoint.Keep()) as saver:
            saver.begin(2, module, optimizer, {})
            train(module, optimizer, 2, group)  # is not in what is being written
        if group.first:
            torch.save(found, out / "found.pt")
        group.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
