"""How do two implementations compute without rounding noise between them? In fp64, fp32 casts included.

Code that casts to fp32 in the middle of an fp64 computation (norms, rope angles, softmax) puts fp32 noise
back, which hides small mistakes. Under `exact()` every explicit fp32 in either implementation means fp64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LIFTED_METHODS: dict[Any, Any] = {torch.Tensor.float: torch.Tensor.double}
# these read the dtype as a layout of bits or as a question, not as a precision
UNTOUCHED: frozenset[Any] = frozenset({torch.Tensor.view, torch.Tensor.is_floating_point})
LIFTED: dict[Any, Any] = {
    torch.float32: torch.float64,
    "torch.FloatTensor": "torch.DoubleTensor",
    "torch.float32": "torch.float64",
}
LIFTABLE = (torch.dtype, str)


class LiftFloat32(TorchFunctionMode):
    """Every `.float()`, `.to(torch.float32)` and `dtype=torch.float32` gives fp64."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in UNTOUCHED:
            return func(*args, **kwargs)
        # called for every operation: no function of our own is
        lifted = [LIFTED.get(value, value) if isinstance(value, LIFTABLE) else value for value in args]
        for name, value in kwargs.items():
            if isinstance(value, LIFTABLE):
                kwargs[name] = LIFTED.get(value, value)
        return LIFTED_METHODS.get(func, func)(*lifted, **kwargs)


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Build and run models here; parameters and inputs that are floating point are to be fp64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with LiftFloat32():
            yield
    finally:
        torch.set_default_dtype(before)
