"""What do processes say that hold a model between them? Runs in each of them; the first compares with one.

`python -m tests.ports.spread CASES.json OUT.json` behind torchrun's variables.
A case: config, replicas, tensor, experts, skewed, adapted, compiled.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from ptw.errors import PtwError
from ptw.nn.layout import Layout
from ptw.ports import adapter, adapting
from ptw.ports.compiled import compile_blocks
from ptw.ports.load import Spread, create
from ptw.ports.parallel import copy_whole, whole
from ptw.train.group import Group, joined
from ptw.train.optimize import clip
from ptw.train.parallel import spreading
from ptw.workspace.manifest import ClusterEntry

LENGTHS = ((9, 5, 2), (16,), (3, 13), (7, 8))
VOCABULARY = 101


def main(cases: Path, out: Path) -> None:
    torch.set_num_threads(1)
    with joined() as workers:
        found = {name: differences(workers, **case) for name, case in json.loads(cases.read_text()).items()}
        if workers.first:
            out.write_text(json.dumps(found))
        distributed.barrier()


def differences(
    workers: Group,
    config: dict[str, Any],
    replicas: int = 1,
    tensor: int = 1,
    experts: int = 1,
    skewed: bool = False,
    adapted: bool = False,
    compiled: bool = False,
) -> dict[str, float] | str:
    """Of loss and gradients, relative; or why the model cannot be spread so."""
    cluster = ClusterEntry("test", workers=workers.world, replicas=replicas, tensor=tensor, experts=experts)
    group = Group(workers.rank, workers.world, workers.device, tensor)
    try:
        spread = spreading(cluster, group, "fp32", "model test")
        module = opened(config, adapted, spread)
    except PtwError as error:
        return str(error)
    alone = opened(config, adapted, None)
    for model in (module, alone) if skewed else ():
        choose_the_first_two(model)
    if compiled:
        compile_blocks(module)
    share = step(module, group.data_rank, group.data_world)
    (loss,) = workers.sum(group.once(share))
    norm = clip(module.parameters(), 1e9)
    ours = {name: whole(value.grad) for name, value in module.named_parameters() if value.grad is not None}
    held = sum(parameter.to_local().numel() for parameter in module.parameters())
    held /= sum(parameter.numel() for parameter in module.parameters())
    expected = step(alone, 0, 1)
    theirs = {name: value.grad for name, value in alone.named_parameters() if value.grad is not None}
    assert ours.keys() == theirs.keys()
    norm_alone = clip(alone.parameters(), 1e9)
    return {
        "loss": abs(loss / expected - 1),
        "gradients": max(float((ours[n] - theirs[n]).norm() / (theirs[n].norm() + 1e-30)) for n in ours),
        "norm": abs(norm / norm_alone - 1),
        "held": held,
        "idle": idle_experts(theirs.values()),
    }


def opened(config: dict[str, Any], adapted: bool, spread: Spread | None) -> nn.Module:
    """The model in fp64; adapted: with a LoRA on all layers that can have one, put on it while whole."""
    loaded = create(config, None, seed=1, dtype=torch.float64, spread=None if adapted else spread)
    if adapted:
        settings = adapter.Settings(4, 8, adapting.all_linear(loaded))
        adapting.begin(loaded, settings, seed=2)
        draw = torch.Generator().manual_seed(4)
        for layer in adapter.attached(loaded.module).values():
            up = layer.lora_B.weight
            up.data.copy_(torch.randn(up.shape, generator=draw) / 10)
        if spread is not None:
            spread(loaded.module, loaded.port, loaded.module.config)
    return loaded.module


def idle_experts(gradients: Iterable[torch.Tensor]) -> float:
    """Which part of the experts no token chose."""
    idle = [not expert.any() for gradient in gradients if gradient.ndim == 3 for expert in gradient]
    return sum(idle) / max(1, len(idle))


def choose_the_first_two(module: nn.Module) -> None:
    """Every token's best expert is one of the first two, by a sign: the other processes' experts get none."""
    for name, parameter in module.named_parameters():
        if name.endswith("mlp.gate.weight"):
            drawn_D = torch.randn(parameter.shape[1], generator=torch.Generator().manual_seed(3))
            sign_E = torch.tensor([1.0, -1.0, *[0.1] * (len(parameter) - 2)])
            with torch.no_grad():
                copy_whole(parameter, sign_E[:, None] * drawn_D)


def step(module: Any, rank: int, world: int) -> float:
    """This one's share of the loss, after its backward pass as a run makes it."""
    loss = loss_of(module, rank, world)
    (loss * world).backward()
    return float(loss.item())


def loss_of(module: Any, rank: int, world: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(2)
    ids_BT = torch.randint(0, VOCABULARY, (len(LENGTHS), 16), generator=draw)
    layout = Layout.of_documents(LENGTHS[rank::world], width=16)
    hidden_BTD = module(ids_BT[rank::world], layout)
    total: torch.Tensor = module.head().loss(hidden_BTD, ids_BT.roll(-1, 1)[rank::world])
    return total


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
