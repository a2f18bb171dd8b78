"""What is each module of a model given, and what does it give, in the order in which they run?

A probe like a verifier's (see `subject`): asked of the port in its sandbox, then of the reference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 600  # of the documents that are traced, the longest first: every module's tensors are written
LOGITS = "logits"  # stands for a module that every model has


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """DOCUMENT/ORDER/given|gives/CALL/MODULE: the first floating tensor that it takes, or gives back."""
    model = subject.exact()
    found: dict[str, Tensor] = {}
    for number, ids in documents(inputs):
        events: list[tuple[str, Tensor]] = []
        with watched(model.module, events):
            logits = model.logits(ids)
        events.append((f"gives/0/{LOGITS}", logits))
        found |= {f"{number}/{order:05d}/{name}": tensor for order, (name, tensor) in enumerate(events)}
    return found


def documents(inputs: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    """The longest ones, while they are few tokens in all."""
    split = list(enumerate(inputs["ids"].split(inputs["lengths"].tolist())))
    chosen: list[tuple[int, Tensor]] = []
    for number, ids in sorted(split, key=lambda entry: -len(entry[1])):
        if not chosen or sum(len(one) for _, one in chosen) + len(ids) <= TOKENS:
            chosen.append((number, ids))
    return chosen


@contextlib.contextmanager
def watched(module: nn.Module, events: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Every call of a module below this one is written down, as it begins and as it ends."""
    calls: dict[str, int] = {}

    def watch(name: str, child: nn.Module) -> Iterator[Any]:
        def begins(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            calls[name] = calls.get(name, -1) + 1
            note("given", (*args, *kwargs.values()))

        def ends(_: nn.Module, args: Any, output: Any) -> None:
            note("gives", output)

        def note(event: str, value: Any) -> None:
            tensor = first(value)
            if tensor is not None:
                events.append((f"{event}/{calls[name]}/{name}", tensor.detach().clone()))

        yield child.register_forward_pre_hook(begins, with_kwargs=True)
        yield child.register_forward_hook(ends)

    handles = [handle for name, child in module.named_modules() if name for handle in watch(name, child)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first(value: Any) -> Tensor | None:
    """The first floating tensor in what was taken or given back."""
    if isinstance(value, Tensor):
        return value if torch.is_floating_point(value) else None
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((found for entry in value if (found := first(entry)) is not None), None)
    return None
