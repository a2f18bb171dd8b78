"""How does a port answer what a verifier asks? In its own process, where the reference is not.

Knows the port by what every port has: `Config.from_hf`, `Model`, `weights`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ptw.nn import attention, head
from ptw.nn.cache import KVCache
from ptw.nn.decode import generate
from ptw.nn.head import IGNORED
from ptw.nn.layout import Layout
from ptw.ports.load import load
from ptw.ports.mapping import back_to_checkpoint, padded_tables
from ptw.ports.port import Port
from ptw.ports.weights import Operator
from ptw.verify.subject import Tensors, arithmetic

QUICK = ("dense", "documents")  # flex, which a CPU runs uncompiled, is asked for by name
SIDES = ("right", "left")
CHUNK = 7  # targets of which the loss is computed at a time, so that few documents have many chunks


class PortModel:
    """A port with a checkpoint's weights (see `subject.Model`)."""

    def __init__(self, port: Port, root: Path, folder: Path, dtype: torch.dtype, exactly: bool) -> None:
        self.exactly = exactly
        with arithmetic(exactly):
            loaded = load(folder, root, port=port.model_type, dtype=dtype)
        self.module: Any = loaded.module.eval()
        self.operators: tuple[Operator, ...] = loaded.operators
        self.file = port.file
        self.folder = folder

    @functools.cached_property
    def state(self) -> Tensors:
        """The checkpoint's tensors."""
        return load_file(self.folder / "model.safetensors")

    def logits(self, ids_T: Tensor) -> Tensor:
        with arithmetic(self.exactly):
            return self._logits(ids_T[None], Layout.of_documents([[len(ids_T)]]))[0]

    def rows(self, ids_BT: Tensor) -> Tensor:
        with arithmetic(self.exactly):
            return self._logits(ids_BT, Layout.of_documents([[ids_BT.shape[1]]] * len(ids_BT)))

    def bounds(self, ids_T: Tensor) -> Tensor:
        given: set[float] = set()
        told = attention.How

        def noted(scale: float, window: int | None, sinks_N: Tensor | None, cap: float | None) -> Any:
            given.update(float(bound) for bound in (window, cap) if bound is not None)
            return told(scale, window, sinks_N, cap)

        attention.How = noted  # type: ignore[assignment,misc]
        try:
            self.logits(ids_T)
        finally:
            attention.How = told  # type: ignore[misc]
        return torch.tensor(sorted(given), dtype=torch.float64)

    def far(self, ids_T: Tensor, start: int) -> Tensor:
        layout = Layout.of_documents([[len(ids_T)]])
        far = dataclasses.replace(layout, positions_BT=layout.positions_BT + start)
        with arithmetic(self.exactly), contextlib.suppress(IndexError):  # a table of positions ends
            return self._logits(ids_T[None], far)[0]
        return torch.empty(0)

    def lines(self, ids_T: Tensor) -> Tensor:
        """The numbers of the lines of the port's file that run, from hidden states to logits and loss."""
        ran: set[int] = set()
        file = str(self.file)

        def look(frame: Any, event: str, _: Any) -> Any:
            if frame.f_code.co_filename != file:
                return None
            ran.add(frame.f_lineno)
            return look

        before = sys.gettrace()
        sys.settrace(look)
        try:
            self.logits(ids_T)
            self.losses(ids_T, [len(ids_T)], ids_T.roll(-1))
        finally:
            sys.settrace(before)
        return torch.tensor(sorted(ran))

    def packed(self, ids: Tensor, inputs: Tensors, backends: Sequence[str] = QUICK) -> Tensors:
        """In rows, the shorter one padded on either side; logits in the documents' order."""
        rows = _rows(inputs["lengths"].tolist(), inputs["row"].tolist())
        found = {}
        with arithmetic(self.exactly):
            for backend, side in itertools.product(backends, SIDES):
                layout = Layout.of_documents(rows, backend=cast(Any, backend), padding=cast(Any, side))
                logits_BTV = self._logits(_placed(ids, layout), layout)
                found[f"{backend}-{side}"] = logits_BTV[layout.documents_BT >= 0]
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

    def losses(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensor:
        with arithmetic(self.exactly), self._chunks():
            hidden_BTD = self.module(ids[None], Layout.of_documents([list(lengths)]))
            pairs = zip(hidden_BTD[0].split(list(lengths)), targets.split(list(lengths)), strict=True)
            projection = self.module.head()
            return torch.stack([projection.loss(hidden[None], answers[None]) for hidden, answers in pairs])

    def gradients(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensors:
        """Through the packed forward and the chunked loss, back to the checkpoint's tensors."""
        self.module.zero_grad(set_to_none=True)
        rows = _rows(lengths, [2 * place // len(lengths) for place in range(len(lengths))])
        with arithmetic(self.exactly, gradients=True), self._chunks():
            layout = Layout.of_documents(rows)
            ids_BT, targets_BT = _placed(ids, layout), _placed(targets, layout, IGNORED)
            loss = self.module.head().loss(self.module(ids_BT, layout), targets_BT)
            loss.backward()
            parameters = dict(self.module.named_parameters(remove_duplicate=False))
            gradients = {name: _gradient(parameter) for name, parameter in parameters.items()}
            by_key = back_to_checkpoint(self.operators, self.state, gradients)
            found = {f"gradient.{key}": gradient for key, gradient in by_key}
        tables = {name: self.module.get_parameter(name) for name in padded_tables(self.operators)}
        rest = [_gradient(tables[name])[rows:] for name, rows in padded_tables(self.operators).items()]
        padded = torch.stack([torch.zeros(()).double(), *(part.abs().max() for part in rest if len(part))])
        self.module.zero_grad(set_to_none=True)
        return found | {"loss": loss.detach(), "padded": padded.max()}

    @contextlib.contextmanager
    def _chunks(self) -> Iterator[None]:
        """The loss in chunks so small that their borders matter."""
        before = head.CHUNK_ELEMENTS
        head.CHUNK_ELEMENTS = CHUNK * self.module.config.vocab_size
        try:
            yield
        finally:
            head.CHUNK_ELEMENTS = before

    def stored(self) -> Tensors:
        """The bits of each checkpoint tensor as the model holds it."""
        parameters = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        found: Tensors = {}
        for operator in self.operators:
            bits = [parameters[name].element_size() * 8 for name in operator.ours]
            found |= dict.fromkeys(operator.theirs, torch.tensor(min(bits, default=64)))
        return found

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


def _rows(lengths: Sequence[int], row: Sequence[int]) -> list[list[int]]:
    """The lengths of each row's documents."""
    rows: list[list[int]] = [[] for _ in range(max(row) + 1)]
    for length, number in zip(lengths, row, strict=True):
        rows[number].append(length)
    return rows


def _placed(tokens: Tensor, layout: Layout, filler: int = 0) -> Tensor:
    """(B, T) tokens of documents that follow each other as they do in the rows."""
    tokens_BT = torch.full_like(layout.positions_BT, filler)
    tokens_BT[layout.documents_BT >= 0] = tokens
    return tokens_BT


def _gradient(parameter: Tensor) -> Tensor:
    """Nothing that reaches a parameter is a gradient of zero, as it is for the reference's."""
    found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return found.double()
