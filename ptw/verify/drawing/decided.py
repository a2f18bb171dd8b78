"""Which inputs leave no routing decision close? Drawn token by token until the reference decides clearly.

Imports no transformers, but runs the reference's model: in the case maker's process only.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ptw.ports.parallel import blocks
from ptw.verify.drawing.routing import Watch
from ptw.verify.reference import hf

CLEAR = 0.05  # of the spread of a router's scores: what bf16 does not turn
DRAWS = 200
SIDE_BY_SIDE = 16  # continuations of a document that are tried at once
DOCUMENTS = 6
SHORTEST, LONGEST = 8, 40
SAMPLES, FORCED_LENGTH = 32, 12
Tensors = dict[str, Tensor]


def precise(model: nn.Module, vocabulary: int, draw: random.Random, *, routes: bool) -> Tensors:
    """precise.ids, precise.lengths: documents in which no decision is close; {} if none could be drawn."""
    found = []
    for _ in range(DOCUMENTS):
        length = draw.randrange(SHORTEST, LONGEST + 1)
        if routes:
            document = _clear_document(model, length, vocabulary, draw)
        else:
            document = torch.tensor([draw.randrange(vocabulary) for _ in range(length)])
        if len(document) >= SHORTEST:
            found.append(document)
    if not found:
        return {}
    lengths = torch.tensor([len(document) for document in found])
    return {"precise.ids": torch.cat(found), "precise.lengths": lengths}


def forced(model: nn.Module, vocabulary: int, draw: random.Random, *, routes: bool) -> Tensors:
    """forced: (S, L, T, D), what each of the L blocks is given instead of the block's before it.

    {} for a family whose repeated blocks do not all take hidden states first, or are not called in turn.
    """
    places = blocks(model)
    random_ids = torch.tensor([[draw.randrange(vocabulary) for _ in range(LONGEST)]])
    spreads = _spreads(model, [block for _, block in places], random_ids)
    if spreads is None:
        return {}
    random_numbers = torch.Generator().manual_seed(draw.getrandbits(48))
    scale_L, width = torch.tensor(spreads[0]), spreads[1]
    scale_L11 = scale_L[:, None, None].double()
    shape = (SAMPLES, len(places), FORCED_LENGTH, width)

    def drawn() -> Tensor:
        noise = torch.randn(shape, generator=random_numbers, dtype=torch.float64)
        return (scale_L11 * noise).to(torch.bfloat16).double()

    hidden_SLTD = drawn()
    if routes:
        ids = torch.zeros(SAMPLES, FORCED_LENGTH, dtype=torch.int64)
        for _ in range(DRAWS):
            clear_SLT = _clear_forced(model, [block for _, block in places], ids, hidden_SLTD)
            # a token sees those before it: the first close one is drawn again, then what follows it
            first_SLT = ~clear_SLT & (clear_SLT.long().cumprod(-1).roll(1, -1).bool() | _first(clear_SLT))
            if not first_SLT.any():
                break
            hidden_SLTD = torch.where(first_SLT[..., None], drawn(), hidden_SLTD)
        else:
            return {}
    return {"forced": hidden_SLTD.to(hf.SINGLE).contiguous()}


def _first(clear_SLT: Tensor) -> Tensor:
    first = torch.zeros_like(clear_SLT)
    first[..., 0] = True
    return first


def is_decided(model: nn.Module, document: Sequence[int], closeness: float) -> bool:
    """Whether no decision of the reference on this document is as close as that."""
    with Watch() as watch:
        hf.forward(model, torch.tensor(document))
    return watch.closest > closeness


def _clear_document(model: Any, length: int, vocabulary: int, draw: random.Random) -> Tensor:
    """As long as possible a document of which every token is routed clearly."""
    known = torch.zeros(0, dtype=torch.int64)
    for _ in range(DRAWS):
        rest = [[draw.randrange(vocabulary) for _ in range(length - len(known))] for _ in range(SIDE_BY_SIDE)]
        ids_BT = torch.cat([known.expand(SIDE_BY_SIDE, -1), torch.tensor(rest)], dim=1)
        with Watch() as watch:
            hf.fresh(model)(ids_BT, use_cache=False)
        clear_BT = _clear(watch, ids_BT.shape).all(dim=0)
        clear_BT[:, : len(known)] = True
        run_B = clear_BT.long().cumprod(dim=1).sum(dim=1)
        best = int(run_B.argmax())
        known = ids_BT[best, : int(run_B[best])]
        if len(known) == length:
            break
    # alone it is decided as among others
    while len(known) >= SHORTEST and not is_decided(model, known.tolist(), CLEAR):
        known = known[:-1]
    return known


def _clear(watch: Watch, shape: torch.Size, places: int = 1) -> Tensor:
    """(places, B, T): whether each decision at a token is clear; one that fits no token counts for all."""
    clear = torch.ones(places, *shape, dtype=torch.bool)
    for place, gaps in watch.gaps:
        each = gaps > CLEAR
        at = max(place, 0)
        if gaps.numel() and gaps.numel() % clear[0].numel() == 0:
            clear[at] &= each.view(*shape, -1).all(dim=-1)
        else:
            clear[at] &= bool(each.all())
    return clear


def _clear_forced(model: Any, modules: Sequence[nn.Module], ids: Tensor, hidden_SLTD: Tensor) -> Tensor:
    watch = Watch()
    with replaced(modules, hidden_SLTD, watch), watch:
        model(ids, use_cache=False)
    return _clear(watch, ids.shape, len(modules)).transpose(0, 1)


@contextlib.contextmanager
def replaced(modules: Sequence[nn.Module], hidden_SLTD: Tensor, watch: Watch) -> Iterator[None]:
    """Each block is given its own hidden states, whatever the one before it made."""

    def hook(place: int) -> Any:
        def replace(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            watch.place = place
            if given:
                return (hidden_SLTD[:, place], *given[1:]), named
            return given, named | {"hidden_states": hidden_SLTD[:, place]}

        return replace

    handles = [
        module.register_forward_pre_hook(hook(place), with_kwargs=True)
        for place, module in enumerate(modules)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _spreads(model: Any, modules: Sequence[nn.Module], ids: Tensor) -> tuple[list[float], int] | None:
    """The standard deviation of what each block is given, and its width; None if it is no such thing."""
    seen: list[tuple[int, Any]] = []

    def hook(place: int) -> Any:
        def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen.append((place, given[0] if given else named.get("hidden_states")))

        return note

    handles = [
        module.register_forward_pre_hook(hook(place), with_kwargs=True)
        for place, module in enumerate(modules)
    ]
    try:
        model(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if not seen or [place for place, _ in seen] != list(range(len(modules))):
        return None
    hidden = [value for _, value in seen]
    if not all(isinstance(one, Tensor) and one.dim() == 3 and one.is_floating_point() for one in hidden):
        return None
    if len({tuple(one.shape) for one in hidden}) > 1 or hidden[0].shape[:2] != ids.shape:
        return None
    return [float(one.std()) for one in hidden], int(hidden[0].shape[-1])
