"""Does some case move every field and every weight of the reference? What none moves may be a hole.

Imports no transformers, but runs the reference's model: in the case maker's process only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ptw.verify.drawing.fields import Field, read_by_model
from ptw.verify.drawing.informative import pattern
from ptw.verify.drawing.search import Search
from ptw.verify.nudge import nudge
from ptw.verify.reference import hf

MOVED = 1e-12


@dataclass
class Weights:
    """Which case moves a kind of weights: its name with * for the numbers of layers and experts."""

    moved_by: dict[str, str | None] = field(default_factory=dict)

    def knows(self, saved: Mapping[str, Tensor]) -> bool:
        return all(self.moved_by.get(pattern(name)) for name in saved)

    def look(
        self, case: str, model: nn.Module, saved: Mapping[str, Tensor], documents: Sequence[Tensor]
    ) -> None:
        """Each kind that no earlier case moved, by changing one weight after the other until one does."""
        kinds: dict[str, list[str]] = {}
        for name in saved:
            if self.moved_by.setdefault(pattern(name), None) is None:
                kinds.setdefault(pattern(name), []).append(name)
        if not kinds:
            return
        before = [hf.forward(model, ids) for ids in documents]
        held = model.state_dict(keep_vars=True)
        for kind, names in kinds.items():
            if any(_moves(model, held[name], name, documents, before) for name in names):
                self.moved_by[kind] = case


def _moves(
    model: nn.Module, tensor: Tensor, name: str, documents: Sequence[Tensor], before: Sequence[Tensor]
) -> bool:
    was = tensor.data
    tensor.data = nudge(name, was).to(was.dtype)
    try:
        for ids, logits in zip(documents, before, strict=True):
            after = hf.forward(model, ids)
            if bool((after - logits).norm() > MOVED * logits.norm()):
                return True
        return False
    finally:
        tensor.data = was


def audit(
    search: Search, fields: Sequence[Field], cases: Mapping[str, Sequence[str]], weights: Weights
) -> dict[str, Any]:
    """`cases`: by name the fields that each moves. Gives the audit as it is written."""
    movers: dict[str, str] = {}
    for case, names in cases.items():
        for name in names:
            movers.setdefault(name, case)
    known = {one.name: one for one in fields}
    names = [*known, *(name for name in search.tried if name not in known)]
    found = {name: _field(search, name, known.get(name), movers.get(name)) for name in names}
    unmoved = [kind for kind, case in weights.moved_by.items() if case is None]
    holes = [
        f"{name}: {entry['why']}"
        for name, entry in found.items()
        if not (entry["moved_by"] or entry["inert"])
    ]
    return {
        "fields": found,
        "parameters": weights.moved_by,
        "inert_parameters": unmoved,
        "holes": holes,
    }


def _taken(search: Search, name: str) -> bool:
    """Whether the config class takes a value that the reference did not run with, if there are any."""
    changes = search.failing.get(name, [])
    return not changes or any(search.trials.takes(search.with_all([change])) for change in changes)


def _field(search: Search, name: str, one: Field | None, mover: str | None) -> dict[str, Any]:
    tried = search.tried.get(name, [])
    inert, why = False, ""
    if mover is None:
        moved = any(name in change.fields for change in search.moving)
        if moved:
            why = "it moves the reference's output, but is in no case"
        elif search.still.get(name) or (one is None and tried):
            inert, why = True, "it moves nothing, alone or beside any other change that moves something"
        elif one is not None and not one.own:
            inert, why = True, "every model's, not this family's: the reference has no other use for it"
        elif tried and one is not None and not one.declared:
            inert, why = True, "no field of the family's, and the reference runs with no value of it"
        elif one is not None and tried and not _taken(search, name):
            inert, why = True, "the config class takes no other value of it"
        elif one is not None and not read_by_model(search.trials.family, name):
            inert, why = True, "nothing that the causal model runs reads it"
        elif tried:
            why = f"the reference runs with none of {', '.join(tried)}"
        else:
            why = f"no other value than {one.default if one else None!r} is known for it"
    return {"moved_by": mover, "tried": tried, "inert": inert, "why": why}
