"""What does a port say when two processes hold one model between them? Sharded as training shards it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, distributed

from ptw.nn.layout import Layout
from ptw.ports.load import load
from ptw.ports.mapping import back_to_checkpoint
from ptw.ports.parallel import mesh_of, shard, whole
from ptw.ports.port import Port
from ptw.verify.subject import Tensors, arithmetic


class ShardedPort:
    """A port with a checkpoint's weights in exact arithmetic, of which each process holds a part."""

    def __init__(self, port: Port, root: Path, folder: Path) -> None:
        with arithmetic(exactly=True):
            loaded = load(folder, root, port=port.model_type, dtype=torch.float64)
        self.module: Any = loaded.module.eval()
        self.operators = loaded.operators
        self.state = load_file(folder / "model.safetensors")
        self.world = distributed.get_world_size()
        shard(self.module, mesh_of(self.world, "cpu"))

    def answers(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensors:
        """logits (T, V), loss, gradient.KEY; each process takes every second document, packed in one row."""
        documents, answers = ids.split(list(lengths)), targets.split(list(lengths))
        own = range(distributed.get_rank(), len(lengths), self.world)
        with arithmetic(exactly=True, gradients=True):
            layout = Layout.of_documents([[lengths[place] for place in own]])
            hidden_BTD = self.module(torch.cat([documents[place] for place in own])[None], layout)
            head = self.module.head()
            loss = head.loss(hidden_BTD, torch.cat([answers[place] for place in own])[None])
            logits_TV = head.logits(hidden_BTD.detach())[0].detach()
            # the mean over the processes is taken, and the sum is what was asked for
            (loss * self.world).backward()
        parts = dict(zip(own, logits_TV.split([lengths[place] for place in own]), strict=True))
        total = loss.detach().clone()
        distributed.all_reduce(total)
        return {
            "logits": self._gathered(parts, lengths, logits_TV.shape[1]),
            "loss": total,
            **{f"gradient.{key}": gradient for key, gradient in self._gradients().items()},
        }

    def _gathered(self, parts: dict[int, Tensor], lengths: Sequence[int], vocabulary: int) -> Tensor:
        """In the documents' order, each sent by the process that had it."""
        found = []
        for place, length in enumerate(lengths):
            empty = torch.empty(length, vocabulary, dtype=torch.float64)
            part = parts.get(place, empty).contiguous()
            distributed.broadcast(part, src=place % self.world)
            found.append(part)
        return torch.cat(found)

    def _gradients(self) -> Tensors:
        found = {}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            full = whole(parameter.detach()) if parameter.grad is None else whole(parameter.grad)
            found[name] = torch.zeros_like(full) if parameter.grad is None else full.double()
        return dict(back_to_checkpoint(self.operators, self.state, found))
