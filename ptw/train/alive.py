"""How much memory do tensors take while something is computed: now, and at its most?"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Counts the bytes of storages that are made while it is entered, each once, until nobody holds them.

    Tensors may be fake: then nothing is computed, and nothing takes memory. `own` are tensors from before,
    which are not counted. now, most: bytes; `most` may be set anew. cast: of `now`, what parameters among
    `own` were cast to.
    """

    def __init__(self, own: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = self.cast = 0
        self._own = {_key(one): one for one in own}
        self._parameters = {_key(one) for one in self._own.values() if isinstance(one, nn.Parameter)}
        self._held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        is_cast = func is torch.ops.aten._to_copy.default and _key(args[0]) in self._parameters
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._hold(tensor, is_cast)
        return made

    def add(self, size: int) -> None:
        """What is not made here, but held then."""
        self.now += size
        self.most = max(self.most, self.now)

    def _hold(self, tensor: Tensor, is_cast: bool) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self._own or key in self._held:
            return
        size = storage.nbytes()

        def release(_: object) -> None:
            del self._held[key]
            self.now -= size
            self.cast -= size if is_cast else 0

        self._held[key] = weakref.ref(storage, release)
        self.cast += size if is_cast else 0
        self.add(size)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
