"""Which parts of a model does torch.compile take? Of each block what has the same shapes at every step.

Attention is left out: it knows the lengths of documents, which no two batches share, and on a GPU it is
compiled by itself. So are experts, whose rows are others each time. What is left (norms, projections, RoPE,
activations, sums) has the rows and the window of a step, so that a step's documents compile nothing anew.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ptw.errors import PtwError
from ptw.nn import attention
from ptw.ports.expert_parallel import has_stacks
from ptw.ports.parallel import blocks


def compile_blocks(module: nn.Module) -> None:
    """Let each block's forward pass be compiled when it is first run; names and hooks stay what they are.

    Only where gradients are wanted: decoding has other shapes at every step.
    """
    attention.leave_out_of_graphs()
    for child in module.modules():
        if has_stacks(child):
            child.forward = torch.compiler.disable(child.forward)
    for _, block in blocks(module):
        block.forward = partial(_forward, torch.compile(block.forward), block.forward)


def demand_sense(adapter: str, device: torch.device) -> None:
    """PtwError where torch.compile has nothing that it could take, or nothing to build it with."""
    if adapter == "qlora":
        raise PtwError(
            "settings: compile = true beside adapter = 'qlora': matrices in 4 bits are products of "
            "bitsandbytes, which torch.compile does not see into; set compile = false, or adapter = 'lora'"
        )
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(name) is None:
        raise PtwError(
            f"settings: compile = true needs a C++ compiler on a CPU, and there is no {name}: install one, "
            "name yours in CXX, or set compile = false"
        )


def _forward(compiled: Callable[..., Any], plain: Callable[..., Any], *given: Any, **named: Any) -> Any:
    return (compiled if torch.is_grad_enabled() else plain)(*given, **named)
