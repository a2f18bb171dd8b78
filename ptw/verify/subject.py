"""What can a verifier ask of a model? The same of a port and of its reference, each in its own process.

A verifier's `probe(subject, inputs)` runs on both. In the port's process the subject is made by
`port.model`, in the reference's by `reference.model`; every name that it gives back is the checkpoint's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ptw.ports.checkpoint import open_checkpoint
from ptw.ports.load import stored_dtype
from ptw.verify import nudge, watch
from ptw.verify.exact import exact
from ptw.workspace import rooms

Tensors = dict[str, Tensor]
Probe = Callable[[Any, Tensors], Tensors]


class Model(Protocol):
    """A checkpoint in memory, in one dtype. D documents of `lengths` stand one after the other in `ids`."""

    module: nn.Module

    def logits(self, ids_T: Tensor) -> Tensor:
        """(T, V) of one document alone, nothing cached."""

    def packed(self, ids: Tensor, inputs: Tensors, backends: Sequence[str] = ...) -> Tensors:
        """(T, V) by each way in which a port takes several documents at once; of the reference none."""

    def decoded(self, inputs: Tensors) -> Tensors:
        """logits (R, steps + 1, V) through the cache; tokens (R, new), and how close the second best was."""

    def rows(self, ids_BT: Tensor) -> Tensor:
        """(B, T, V): each row a document alone."""

    def bounds(self, ids_T: Tensor) -> Tensor:
        """A port's: windows and caps that its attention is given; the reference's: its config's numbers."""

    def far(self, ids_T: Tensor, start: int) -> Tensor:
        """(T, V) of a document whose first position is `start`; empty where positions end before."""

    def losses(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensor:
        """(D,): each document's summed loss, in the port by chunks."""

    def gradients(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensors:
        """The summed loss; gradient.KEY of it, by checkpoint key; padded: the largest in rows of padding.

        Documents are packed and the loss is chunked where the model does so.
        """

    def stored(self) -> Tensors:
        """KEY -> the bits in which the model holds this tensor of the checkpoint."""

    def changed(self, key: str, value: Tensor) -> contextlib.AbstractContextManager[None]:
        """One tensor of the checkpoint replaced for a while."""


class Adapted(Protocol):
    """A checkpoint in exact arithmetic with an adapter on it."""

    def answers(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensors:
        """logits (T, V), and gradient.KEY of the summed loss by the names of the adapter's file."""


@dataclass
class Subject:
    """One case as a model of it can be asked. Models are opened when they are first asked for."""

    is_reference: bool
    given: Path
    opened: Callable[[Path, torch.dtype, bool], Model]  # folder of a checkpoint, dtype, exact or not
    handed: Path  # where the port leaves what the reference is to open: its export, its adapter
    written: Callable[[Path, Path], None] | None = None  # the port's: a checkpoint opened and written again
    reopened: Callable[[Path], tuple[Any, int]] | None = None  # the reference's: as any user opens a folder
    adapting: Callable[[Path, Path], Adapted] | None = None  # of a checkpoint and an adapter
    other: Callable[[Path, torch.dtype, Tensor], Tensor] | None = None  # the reference's, by other attention
    timing: Callable[[Path, Tensors, str], Tensors] | None = None  # of a configuration, on a device
    _models: dict[tuple[torch.dtype, bool], Model] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        return self.given / "checkpoint"

    @property
    def adapter(self) -> Path:
        return self.given / "adapter"

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json, as the case has it."""
        values: dict[str, Any] = json.loads((self.checkpoint / "config.json").read_text())
        return values

    @cached_property
    def weights(self) -> Tensors:
        """The checkpoint's tensors."""
        return load_file(self.checkpoint / "model.safetensors")

    def nudged(self, key: str) -> Tensor:
        """A tensor of the checkpoint with noise on every element, the same for port and reference."""
        return nudge.nudge(key, self.weights[key])

    def export(self) -> None:
        """The port opens the checkpoint and writes it again, for `reopen` to look at."""
        if self.written is not None:
            self.written(self.checkpoint, self.handed / "export")

    def adapted(self) -> Adapted:
        """The case's checkpoint with the case's adapter on it."""
        assert self.adapting is not None
        return self.adapting(self.checkpoint, self.adapter)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The checkpoint's own."""
        return stored_dtype(open_checkpoint(self.checkpoint))

    def otherwise(self, ids_T: Tensor) -> Tensor:
        """(T, V) of the reference with another attention, in the checkpoint's own dtype."""
        assert self.other is not None
        return self.other(self.checkpoint, self.dtype, ids_T)

    def timed(self, inputs: Tensors) -> Tensors:
        """How long learning and decoding take on the case's configuration; weights are drawn by name."""
        assert self.timing is not None
        return self.timing(self.checkpoint, inputs, "cpu")

    def exact(self) -> Model:
        """In fp64, every explicit fp32 lifted to fp64: no rounding noise is left between right ones."""
        return self._model(torch.float64, exactly=True)

    def anew(self) -> Model:
        """The same, opened again: it has seen nothing."""
        return self.opened(self.checkpoint, torch.float64, True)

    def at(self, dtype: torch.dtype) -> Model:
        """In a dtype of training, computing as a user's own program would."""
        return self._model(dtype, exactly=False)

    def operations(self, model: Model, ids_T: Tensor) -> Tensors:
        """Where a model does what, and in which precision (see `watch`)."""
        return watch.operations(model.module, lambda: model.logits(ids_T))

    def entering(self, model: Model, ids_T: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the first block is given (T, D), and the cosines and sines of positions, (T, pairs) each."""
        hidden_BTD, tables = watch.entering(model.module, lambda: model.logits(ids_T))
        return hidden_BTD[0], tables

    def forced(self, model: Model, given_SLTD: Tensor) -> Tensor:
        """(S, L, T, D): what each block gives when it is given this."""
        ids_ST = torch.zeros_like(given_SLTD[:, 0, :, 0], dtype=torch.int64)
        return watch.forced(model.module, lambda: model.rows(ids_ST), given_SLTD)

    def _model(self, dtype: torch.dtype, *, exactly: bool) -> Model:
        key = (dtype, exactly)
        if key not in self._models:
            self._models[key] = self.opened(self.checkpoint, dtype, exactly)
        return self._models[key]


def probes(files: Mapping[str, Path], name: str = "probe") -> dict[str, Probe]:
    """What each verifier asks; those that ask nothing are left out."""
    found = {verifier: getattr(rooms.load(file), name, None) for verifier, file in files.items()}
    return {verifier: probe for verifier, probe in found.items() if probe is not None}


def ask(subject: Subject, asked: Mapping[str, Probe]) -> Tensors:
    """Every answer under VERIFIER/NAME, ready to be written."""
    inputs = load_file(subject.given / "inputs.safetensors")
    found = {}
    for verifier, probe in asked.items():
        for name, tensor in probe(subject, dict(inputs)).items():
            found[f"{verifier}/{name}"] = tensor.detach().clone().contiguous()
    return found


@contextlib.contextmanager
def arithmetic(exactly: bool, *, gradients: bool = False) -> Iterator[None]:
    """What everything that a model computes is computed under."""
    with contextlib.ExitStack() as stack:
        if exactly:
            stack.enter_context(exact())
        stack.enter_context(torch.enable_grad() if gradients else torch.no_grad())
        yield
