"""How does a port answer what a verifier asks? In its own process, where the reference is not.

Knows the port by what every port has: `Config.from_hf`, `Model`, `weights`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ptw.nn.cache import KVCache
from ptw.nn.decode import generate
from ptw.nn.layout import Layout
from ptw.ports.load import load
from ptw.ports.port import Port
from ptw.ports.weights import Operator
from ptw.verify.subject import Tensors, arithmetic

BACKENDS = ("dense", "documents")  # flex is fp64 on a CPU only uncompiled, and slow so


class PortModel:
    """A port with a checkpoint's weights (see `subject.Model`)."""

    def __init__(self, port: Port, root: Path, folder: Path, dtype: torch.dtype, exactly: bool) -> None:
        self.exactly = exactly
        with arithmetic(exactly):
            loaded = load(folder, root, port=port.model_type, dtype=dtype)
        self.module: Any = loaded.module.eval()
        self.operators: tuple[Operator, ...] = loaded.operators
        self.state = load_file(folder / "model.safetensors")

    def logits(self, ids_T: Tensor) -> Tensor:
        with arithmetic(self.exactly):
            return self._logits(ids_T[None], Layout.of_documents([[len(ids_T)]]))[0]

    def packed(self, ids: Tensor, inputs: Tensors) -> Tensors:
        """In rows, the shorter one padded, by every backend; logits in the documents' order."""
        lengths, row = inputs["lengths"].tolist(), inputs["row"].tolist()
        rows: list[list[int]] = [[] for _ in range(max(row) + 1)]
        for length, number in zip(lengths, row, strict=True):
            rows[number].append(length)
        found = {}
        with arithmetic(self.exactly):
            for backend in BACKENDS:
                layout = Layout.of_documents(rows, backend=cast(Any, backend))
                real_BT = layout.documents_BT >= 0
                ids_BT = torch.zeros_like(layout.positions_BT)
                ids_BT[real_BT] = ids
                found[backend] = self._logits(ids_BT, layout)[real_BT]
        return found

    def decoded(self, inputs: Tensors) -> Tensors:
        """Documents of uneven lengths side by side through one cache."""
        documents = inputs["ids"].split(inputs["lengths"].tolist())
        chosen = [documents[place] for place in inputs["decode_document"].tolist()]
        held = inputs["decode_prefill"].tolist()
        prompts = [document[:count] for document, count in zip(chosen, held, strict=True)]
        with arithmetic(self.exactly):
            cache = KVCache(self.module.config.num_hidden_layers)
            ids_BT = nn.utils.rnn.pad_sequence(prompts, batch_first=True)
            logits_BTV = self._logits(ids_BT, cache.step(held), cache)
            steps = [logits_BTV[torch.arange(len(held)), torch.tensor(held) - 1]]
            for step in range(int(inputs["decode_steps"])):
                ids_B = torch.stack([document[at + step] for document, at in zip(chosen, held, strict=True)])
                steps.append(self._logits(ids_B[:, None], cache.step([1] * len(held)), cache)[:, 0])
            new = int(inputs["new_tokens"])
            tokens = generate(self.module, [prompt.tolist() for prompt in prompts], new)
        return {"logits": torch.stack(steps, dim=1), "tokens": torch.tensor(tokens)}

    def gradients(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensors:
        """Through the packed forward and the chunked loss, back to the checkpoint's tensors."""
        self.module.zero_grad(set_to_none=True)
        with arithmetic(self.exactly, gradients=True):
            layout = Layout.of_documents([list(lengths)])
            hidden_BTD = self.module(ids[None], layout)
            self.module.head().loss(hidden_BTD, targets[None]).backward()
            found = dict(self._checkpoint_gradients())
        self.module.zero_grad(set_to_none=True)
        return found

    def _checkpoint_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Back through the weight map, so that any map is right, also one that scales."""
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        for operator in self.operators:
            theirs = [self.state[name].to(torch.float64).requires_grad_() for name in operator.theirs]
            ours = operator.from_hf(theirs)
            sums = [_gradient(parameters[name]) for name in operator.ours]
            if theirs:
                yield from zip(operator.theirs, torch.autograd.grad(ours, theirs, sums), strict=True)

    @contextlib.contextmanager
    def changed(self, key: str, value: Tensor) -> Iterator[None]:
        (operator,) = [operator for operator in self.operators if key in operator.theirs]
        self._fill(operator, {key: value})
        try:
            yield
        finally:
            self._fill(operator, {})

    def _fill(self, operator: Operator, changes: Mapping[str, Tensor]) -> None:
        with arithmetic(self.exactly):
            parameters = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
            theirs = [changes.get(name, self.state[name]).double() for name in operator.theirs]
            for name, ours in zip(operator.ours, operator.from_hf(theirs), strict=True):
                parameters[name].copy_(ours)

    def _logits(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None = None) -> Tensor:
        return cast(Tensor, self.module.head().logits(self.module(ids_BT, layout, cache)))


def _gradient(parameter: Tensor) -> Tensor:
    """Nothing that reaches a parameter is a gradient of zero, as it is for the reference's."""
    found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return found.double()
