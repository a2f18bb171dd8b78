"""What did a step take: time, waiting for data, work, how much of the devices, and memory?"""

import resource
import sys
from dataclasses import dataclass

import torch

from ptw.train.feed import StepRows
from ptw.train.flops import Work
from ptw.train.group import Group

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


@dataclass(frozen=True)
class Meter:
    """The work of a model, held against what its workers' devices could do."""

    work: Work | None  # None where nobody can say
    peak: float | None  # FLOP/s of one device, None where nobody says
    group: Group

    def measured(self, step: StepRows, seconds: float, feed_seconds: float) -> dict[str, float | int | None]:
        """As metrics.jsonl has it; all workers call it together.

        mfu: model FLOPs over the peak of all devices. feed_seconds: of these `seconds`, how long the worker
        that waited most waited for data. memory_bytes: the most that any worker held: on a CPU its resident
        set so far, on CUDA what tensors took of the GPU in this step; reserved_bytes: what torch took of it.
        """
        lengths = [row.lengths for row in step.rows]
        flops = None if self.work is None else self.work.step(lengths, step.learnt)
        mfu = None
        if flops is not None and self.peak is not None:
            mfu = flops / seconds / (self.peak * self.group.world)
        waited, memory, reserved = self.group.largest(feed_seconds, *_memory(self.group.device))
        return {
            "seconds": seconds,
            "feed_seconds": waited,
            "flops": flops,
            "mfu": mfu,
            "memory_bytes": int(memory),
            "reserved_bytes": int(reserved) or None,
        }


def _memory(device: torch.device) -> tuple[float, float]:
    """Bytes at the peak, and reserved."""
    if device.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT, 0
    peaks = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)  # of the next step
    return peaks
