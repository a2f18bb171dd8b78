"""What is a model's mean loss a token on data that it doesn't learn from?"""

from collections.abc import Iterable

import torch
from torch import nn

from ptw.data.pack import PackedRow
from ptw.evals.rows import dealt, forward_of, groups, learnt

ROWS_AT_ONCE = 8


@torch.no_grad()
def summed_loss(
    module: nn.Module,
    rows: Iterable[PackedRow],
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    at_once: int = ROWS_AT_ONCE,
) -> tuple[float, int]:
    """This worker's share of the summed loss, and the learnt tokens of all workers' rows."""
    total, tokens = 0.0, 0
    training = module.training
    module.eval()
    for group in groups(rows, at_once * world):
        forward = forward_of(dealt(group, rank, world), device)
        hidden_BTD = module(forward.ids_BT, forward.layout)
        total += module.head().loss(hidden_BTD, forward.targets_BT).item()  # type: ignore[operator]
        tokens += learnt(group)
    module.train(training)
    return total, tokens
