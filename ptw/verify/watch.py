"""What happens inside a model while it runs? Dtypes of its operations, what its parts are given and give.

Knows parts by their names, which are Hugging Face's on both sides.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ptw.ports.parallel import blocks

Tensors = dict[str, Tensor]
Run = Callable[[], object]
# what torch calls it -> what it is; of the kernels that do several things at once, what they do in fp32
OPERATIONS = {
    **{name: name for name in ("rsqrt", "sqrt", "mean", "var", "logsumexp", "sigmoid", "topk", "cos", "sin")},
    **{name: name for name in ("tanh", "exp", "add", "mul", "div")},
    **{"_softmax": "softmax", "_safe_softmax": "softmax", "_log_softmax": "log_softmax"},
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "_grouped_mm", "_linear_pointwise"), "matmul"),
}
FUSED = {"native_layer_norm": ("mean", "var", "rsqrt"), "_fused_rms_norm": ("mean", "rsqrt")}
STATISTICS = ("rsqrt", "sqrt", "mean", "var")  # whose rounding all numbers of a token share
FUSED_ATTENTION = ("_scaled_dot_product_", "_flash_attention", "_efficient_attention")


def operations(module: nn.Module, run: Run) -> Tensors:
    """MODULE/OPERATION -> the fewest bits that it gave there; MODULE/ -> 0 for each part that there is."""
    found = {f"{name}/": 0 for name, _ in module.named_modules()}
    place = [""]
    with contextlib.ExitStack() as stack:
        for name, part in module.named_modules():
            enter = part.register_forward_pre_hook(lambda *_, name=name: place.append(name))
            leave = part.register_forward_hook(lambda *_: _forget(place), always_call=True)
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        stack.enter_context(_Operations(found, place))
        run()
    return {name: torch.tensor(bits) for name, bits in found.items()}


def _forget(place: list[str]) -> None:
    place.pop()


class _Operations(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and keeping the compiler out of it would import it: 1.4 s."""
        return False

    def __init__(self, found: dict[str, int], place: list[str]) -> None:
        super().__init__()
        self.found, self.place = found, place
        self.statistics: dict[int, tuple[str, Tensor]] = {}  # kept: a number of one that is gone comes again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_") or func.overloadpacket.__name__
        first = next((one for one in _tensors(given) if one.is_floating_point()), None)
        if first is not None:
            bits = torch.finfo(first.dtype).bits
            for operation, kept in _done(name, bits):
                self._learn(operation, kept)
            known, _ = self.statistics.get(id(args[0]), ("", None)) if args else ("", None)
            if name in STATISTICS:
                self.statistics[id(first)] = (name, first)
            elif known and name == "_to_copy":  # as good as computed in it
                self._learn(known, bits)
            elif known and not any(isinstance(one, Tensor) for one in args[1:]):  # a view, or a sum with eps
                self.statistics[id(first)] = (known, first)
        return given

    def _learn(self, operation: str, bits: int) -> None:
        key = f"{self.place[-1]}/{operation}"
        self.found[key] = min(bits, self.found.get(key, bits))


def _done(name: str, bits: int) -> Iterator[tuple[str, int]]:
    if name in OPERATIONS:
        yield OPERATIONS[name], bits
    for operation in FUSED.get(name, ()):
        yield operation, max(bits, 32)
    if name.startswith(FUSED_ATTENTION):
        yield "softmax", max(bits, 32)


def entering(module: nn.Module, run: Run) -> tuple[Tensor, list[Tensor]]:
    """The hidden states that the first block is given, and the tables that rotary parts give by then.

    Each table is (T, pairs), of the first row.
    """
    taken: list[Tensor] = []
    gave: list[Tensor] = []
    (_, first), *_ = blocks(module)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_hooked(first, lambda args, kwargs: taken.append(_hidden(args, kwargs))))
        for name, part in module.named_modules():
            if "rotary" in name.rpartition(".")[2]:
                hook = part.register_forward_hook(lambda _, __, output: gave.extend(_tensors(output)))
                stack.callback(hook.remove)
        run()
    return taken[0], [_pairs(table) for table in gave]


def forced(module: nn.Module, run: Run, given_SLTD: Tensor) -> Tensor:
    """(S, L, T, D): what each block gives when it is given this in place of what came before it."""
    gave: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        for layer, (_, block) in enumerate(blocks(module)):
            stack.enter_context(_replaced(block, given_SLTD[:, layer]))
            hook = block.register_forward_hook(lambda _, __, output: gave.append(next(_tensors(output))))
            stack.callback(hook.remove)
        run()
    return torch.stack(gave, dim=1)


def _pairs(table: Tensor) -> Tensor:
    """Without the axes for rows and heads, and each angle once, however it is repeated."""
    table = table[0].squeeze()
    first, second = table.chunk(2, dim=-1) if table.shape[-1] % 2 == 0 else (table, table[:0])
    if first.shape == second.shape and torch.equal(first, second):
        return first
    if table.shape[-1] % 2 == 0 and torch.equal(table[..., ::2], table[..., 1::2]):
        return table[..., ::2]
    return table


def _tensors(value: Any) -> Iterator[Tensor]:
    """All that a part gave, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)
    elif dataclasses.is_dataclass(value):
        yield from _tensors([getattr(value, field.name) for field in dataclasses.fields(value)])


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


@contextlib.contextmanager
def _hooked(part: nn.Module, look: Callable[[tuple[Any, ...], Mapping[str, Any]], object]) -> Iterator[None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        look(args, kwargs)

    handle = part.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _replaced(part: nn.Module, hidden: Tensor) -> Iterator[None]:
    def hook(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        put = hidden.to(_hidden(args, kwargs).dtype)
        return ((put, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": put})

    handle = part.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
