"""Which accepted ports are built most like a family? By the names in their checkpoints and configurations."""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from ptw.agent.reading.family import Facts, pattern
from ptw.errors import PtwError
from ptw.ports.port import Port, configure, load_port
from ptw.workspace import rooms

LAYERS = {"num_hidden_layers": 2}


@dataclass(frozen=True)
class Neighbour:
    """A port, and how much of its names it shares with the family: 1 is all of them."""

    port: Port
    likeness: float


def nearest(found: Facts, root: Path | None) -> list[Neighbour]:
    """Every other port, the likest first."""
    files = rooms.files(root, "models")
    ports = [load_port(file) for name, file in files.items() if name != found.model_type]
    neighbours = [Neighbour(port, _likeness(found, port)) for port in ports]
    return sorted(neighbours, key=lambda one: -one.likeness)


def _likeness(found: Facts, port: Port) -> float:
    tensors = {pattern(name) for name in (*found.shapes, *found.published)}
    fields = {name for name, entry in found.fields.items() if entry.get("moved_by")}
    own = {field.name for field in dataclasses.fields(port.Config)}
    return (_shared(tensors, _patterns(port)) + _shared(fields, own)) / 2


def _patterns(port: Port) -> set[str]:
    try:
        operators = port.weights(configure(port, LAYERS))
    except PtwError:  # it can't do without other keys
        return set()
    return {pattern(name) for operator in operators for name in operator.theirs}


def _shared(first: Set[str], second: Set[str]) -> float:
    return len(first & second) / len(first | second) if first | second else 0.0
