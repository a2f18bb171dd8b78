"""How much of the device did a step use? Model FLOPs of the real work, over the device's peak."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ptw.ports.parallel import blocks

FORWARD_AND_BACKWARD = 3  # a backward pass is two products for each of the forward's
# dense FLOP/s by the makers' data sheets, by a part of the device's name: in bf16, and in fp32 without TF32
PEAKS = {
    "B200": (2250e12, 75e12),
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "RTX 4090": (165e12, 82.6e12),
}


@dataclass(frozen=True)
class Work:
    """What a model costs: matrix elements that each token meets, and the width of attention."""

    per_token: int  # parameters of the blocks' matrices
    per_target: int  # parameters of the head, which only learnt tokens meet
    attention: int  # layers x query heads x head width

    def step(self, lengths: Iterable[Iterable[int]], learnt: int) -> float:
        """FLOPs of a training step on rows of documents of these lengths; padding is no work."""
        documents = [length for row in lengths for length in row]
        matrices = 2 * (self.per_token * sum(documents) + self.per_target * learnt)
        # scores and their use, 2 x 2 FLOPs each, half of them masked: a document's own square, not the row's
        attention = 2 * self.attention * sum(length * length for length in documents)
        return float(FORWARD_AND_BACKWARD * (matrices + attention))


@dataclass(frozen=True)
class Meter:
    """The work of a model, held against what its workers' devices could do."""

    work: Work
    peak: float | None  # FLOP/s of one device, None where nobody says
    world: int

    def measured(
        self, lengths: Sequence[Sequence[int]], learnt: int, seconds: float
    ) -> dict[str, float | None]:
        """As metrics.jsonl has it."""
        done = self.work.step(lengths, learnt)
        mfu = None if self.peak is None else done / seconds / (self.peak * self.world)
        return {"seconds": seconds, "flops": done, "mfu": mfu}


def work_of(module: nn.Module, hf_config: Mapping[str, Any]) -> Work:
    """Counted before the module is sharded."""
    heads = hf_config.get("num_attention_heads", 0)
    width = hf_config.get("head_dim") or hf_config.get("hidden_size", 0) // max(1, heads)
    return Work(
        per_token=sum(p.numel() for _, block in blocks(module) for p in block.parameters() if p.ndim == 2),
        per_target=hf_config.get("vocab_size", 0) * hf_config.get("hidden_size", 0),
        attention=hf_config.get("num_hidden_layers", 0) * heads * width,
    )


def peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s that the device could do; None where nobody says."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = next((value for part, value in PEAKS.items() if part in name), None)
    return None if known is None else known[0 if precision == "bf16" else 1]
