"""How does a port's model begin? Without memory, then with what this process is to hold of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ptw.ports.port import Port


class _NoDefaults(TorchFunctionMode):
    """Modules draw no first weights. On the meta device that changes nothing, yet imports torch's compiler:
    it took two seconds of every process that opened a model."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def bare(port: Port, config: Any, dtype: torch.dtype, wide: Collection[str]) -> nn.Module:
    """The port's modules on the meta device, so that no default weights are drawn.

    Parameters that are `wide` are in fp32 at least.
    """
    with torch.device("meta"), _NoDefaults():
        module = port.Model(config).to(dtype)
    replace_each(module, wide, "meta")
    return module


def replace_each(module: nn.Module, wide: Collection[str], device: torch.device | str) -> None:
    """Unset memory on the device for each parameter and buffer; one tensor may have several names."""
    kept: dict[int, Tensor] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        if id(parameter) not in kept:
            held = torch.promote_types(parameter.dtype, torch.float32) if name in wide else parameter.dtype
            kept[id(parameter)] = nn.Parameter(_unset(parameter, device, held), parameter.requires_grad)
        _put(module, name, kept[id(parameter)])
    for name, buffer in list(module.named_buffers(remove_duplicate=False)):
        _put(module, name, kept.setdefault(id(buffer), _unset(buffer, device, buffer.dtype)))


def _unset(tensor: Tensor, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    # not `empty_like`: of a tensor on the meta device it imports sympy
    return torch.empty(tensor.shape, dtype=dtype, device=device)


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(owner), attribute, tensor)
