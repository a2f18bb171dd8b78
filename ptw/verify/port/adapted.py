"""What does a port say with an adapter on it? PEFT's file, put on by ptw: peft itself needs transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ptw.nn.layout import Layout
from ptw.ports import adapter
from ptw.ports.load import load
from ptw.ports.port import Port
from ptw.verify.subject import Tensors, arithmetic


class AdaptedPort:
    """A port with a checkpoint's weights and an adapter (see `subject.Adapted`)."""

    def __init__(self, port: Port, root: Path | None, checkpoint: Path, folder: Path) -> None:
        self.port, self.root, self.checkpoint = port, root, checkpoint
        self.adapter = adapter.read(folder)

    def answers(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensors:
        """Documents packed, forward and back; place.LAYER: whether the port has it under that name."""
        with arithmetic(exactly=True, gradients=True):
            loaded = load(self.checkpoint, self.root, port=self.port.model_type, dtype=torch.float64)
            places = adapter.places(loaded, self.adapter)
            found = {f"place.{name}": torch.tensor(place == name) for name, place in places.items()}
            if not all(places.values()):
                return found
            adapter.attach(loaded, self.adapter)
            hidden_BTD = loaded.module.eval()(ids[None], Layout.of_documents([list(lengths)]))
            head = loaded.module.head()  # type: ignore[operator]
            head.loss(hidden_BTD, targets[None]).backward()
            found["logits"] = head.logits(hidden_BTD)[0]
        return found | {
            f"gradient.{name}": torch.zeros_like(own) if own.grad is None else own.grad
            for name, own in adapter.parameters(loaded.module).items()
        }

    def save(self, folder: Path) -> None:
        """Put on and written again, as a user of the checkpoint in its own dtype would."""
        loaded = load(self.checkpoint, self.root, port=self.port.model_type)
        if all(adapter.places(loaded, self.adapter).values()):
            adapter.attach(loaded, self.adapter)
            adapter.save(loaded.module, self.adapter.settings, folder)
