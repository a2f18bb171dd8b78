"""What does one forward and backward pass hold in memory? It is computed on shapes, without numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ptw.nn.layout import Layout
from ptw.nn.sampled import Drawn, sampled_losses
from ptw.train.alive import Alive
from ptw.train.settings import SampledSettings, TrainingSettings

FEW = 4  # rows that are computed: what more of them hold grows by the row


@dataclass(frozen=True)
class Passed:
    """Bytes that are made in a pass. loss: None where it is the recipe's own.

    before: gradients of the passes before. cast: weights in the dtype that is computed in. activations: what
    else the backward pass needs. loss: the most that it takes beside them. backward: the most of all that is
    there until each gradient comes, one after the other, while activations go.
    """

    before: int
    cast: int
    activations: int
    loss: int | None
    backward: tuple[int, ...]

    @property
    def most(self) -> int:
        """At any moment."""
        return max(self.before + self.cast + self.activations + (self.loss or 0), *self.backward)


@dataclass(frozen=True)
class Gradients:
    """kept: bytes by parameter that a worker keeps. there: whether they are, before the pass.

    until_end: the parameters whose gradients are whole until the pass ends.
    """

    kept: Mapping[str, int]
    there: bool
    until_end: Collection[str] = ()


def passed(
    mode: FakeTensorMode,
    module: nn.Module,
    shape: tuple[int, int],
    settings: TrainingSettings | None,
    gradients: Gradients,
    computing: AbstractContextManager[Any],
) -> Passed:
    """Of rows that one document fills each: shorter ones take no more.

    shape: rows, and tokens of each. settings: of the loss, which is of every token; None: it is another one.
    """

    def computed(rows: int) -> Passed:
        return _computed(mode, module, (rows, shape[1]), settings, gradients, computing)

    if shape[0] <= FEW:
        return computed(shape[0])
    fewer, few = computed(FEW // 2), computed(FEW)

    def grown(before: int, now: int) -> int:
        return now + (now - before) * (shape[0] - FEW) // (FEW - FEW // 2)

    with mode, computing:  # it grows otherwise: in chunks
        loss = None if settings is None else _of_loss(module, shape, settings)
    activations = grown(fewer.activations, few.activations)
    backward = tuple(map(grown, fewer.backward, few.backward))
    return dataclasses.replace(few, activations=activations, loss=loss, backward=backward)


def _computed(
    mode: FakeTensorMode,
    module: nn.Module,
    shape: tuple[int, int],
    settings: TrainingSettings | None,
    gradients: Gradients,
    computing: AbstractContextManager[Any],
) -> Passed:
    layout = Layout.of_documents([[shape[1]]] * shape[0], backend="documents")
    with mode:
        ids_BT = torch.zeros(shape, dtype=torch.int64)
        of_layout = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT)
    layout = dataclasses.replace(layout, positions_BT=of_layout[0], documents_BT=of_layout[1], _masks={})
    module.train()
    alive = Alive([*module.parameters(), *module.buffers(), ids_BT, *of_layout])
    before = sum(gradients.kept.values()) if gradients.there else 0
    alive.add(before)
    peaks = list[int]()
    with mode, alive, _dropping(module, gradients, alive, peaks) as missing:
        with computing:
            hidden_BTD = module(ids_BT, layout)
            cast, activations = alive.cast, alive.now - before - alive.cast
            alive.most = alive.now
            loss = None if settings is None else _loss(module, hidden_BTD, ids_BT, settings)
        of_loss = None if loss is None else alive.most - before - cast - activations
        learnt = hidden_BTD.sum() if loss is None else loss
        del hidden_BTD, loss
        alive.most = alive.now
        learnt.backward()
        alive.add(0 if gradients.there else sum(gradients.kept[name] for name in missing))
    return Passed(before, cast, activations, of_loss, (*peaks, alive.most))


def _of_loss(module: Any, shape: tuple[int, int], settings: TrainingSettings) -> int:
    """The most that it takes, given the hidden states."""
    weight_VD = module.head().weight_VD
    hidden_BTD = torch.zeros(*shape, weight_VD.shape[1], dtype=weight_VD.dtype).requires_grad_()
    ids_BT = torch.zeros(shape, dtype=torch.int64)
    with Alive([*module.parameters(), hidden_BTD, ids_BT]) as alive:
        _loss(module, hidden_BTD, ids_BT, settings)
    return alive.most


def _loss(module: Any, hidden_BTD: Tensor, ids_BT: Tensor, settings: TrainingSettings) -> Tensor:
    """As of `Run.mean_loss`."""
    head, targets_M = module.head(), ids_BT.flatten()
    hidden_MD = hidden_BTD.flatten(0, 1).clone()  # the tokens that have a loss are taken out
    if isinstance(settings, SampledSettings) and settings.sampled is not None:
        count = min(settings.sampled, head.vocabulary)
        drawn = Drawn(torch.zeros(count, dtype=torch.int64), torch.zeros(count))
        return sampled_losses(hidden_MD, head.weight_VD, targets_M, drawn, head.cap).sum()
    form = {key: getattr(settings, key, 0.0) for key in ("label_smoothing", "z_loss")}
    total: Tensor = head.loss_of_all(hidden_MD, targets_M, **form)
    return total


@contextmanager
def _dropping(module: nn.Module, gradients: Gradients, alive: Alive, peaks: list[int]) -> Iterator[set[str]]:
    """Of each gradient that is whole the worker's part stays; the names of those that did not come yet.

    peaks: gets the most that was there until each came.
    """
    learns = {name: one for name, one in module.named_parameters() if one.requires_grad}
    missing = set(learns)

    def drop(name: str, parameter: Tensor) -> None:
        missing.discard(name)
        if name not in gradients.until_end:
            parameter.grad = None
        alive.add(0 if gradients.there else gradients.kept[name])
        peaks.append(alive.most)
        alive.most = alive.now

    hooks = [one.register_post_accumulate_grad_hook(partial(drop, name)) for name, one in learns.items()]
    yield missing
    for hook in hooks:
        hook.remove()
    for parameter in learns.values():
        parameter.grad = None
