"""Which file is the port of an architecture, and what does it define?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ptw.errors import PtwError
from ptw.ports.weights import Operator
from ptw.workspace import rooms


@dataclass(frozen=True)
class Port:
    """What `models/<model_type>.py` defines. `weights(config)` maps checkpoint and parameters, both ways."""

    model_type: str
    file: Path
    Config: Any
    Model: Callable[[Any], nn.Module]
    weights: Callable[[Any], list[Operator]]


def find_port(root: Path | None, model_type: str) -> Port | None:
    """The workspace's own port of an architecture, else the stock one, else none."""
    file = rooms.files(root, "models").get(model_type)
    return None if file is None else load_port(file)


def load_port(file: Path) -> Port:
    """PtwError if the file can't be imported or does not define what a port defines."""
    module = rooms.load(file)
    missing = [name for name in ("Config", "Model", "weights") if not hasattr(module, name)]
    if missing:
        raise PtwError(f"{file}: a port defines Config, Model and weights; missing: {', '.join(missing)}")
    return Port(file.stem, file, module.Config, module.Model, module.weights)


def configure(port: Port, hf_config: Mapping[str, Any]) -> Any:
    """The port's Config of a config.json's values; PtwError names what the port does not implement."""
    try:
        return port.Config.from_hf(dict(hf_config))
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise PtwError(
            f"{port.file}: config.json does not describe a {port.model_type} model: {error!r}"
        ) from error
