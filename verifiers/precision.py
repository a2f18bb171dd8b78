"""In fp32 and bf16 a port rounds no more, and nowhere earlier, than the reference does.

Exact arithmetic does not see where a value is rounded. In bf16 the end of the model hardly does either: an
honest other order of sums moves it as far as a norm without its upcast. So errors are also looked at block by
block, each given the same hidden states, and dtypes operation by operation.
"""

from typing import Any

import torch
from torch import Tensor

LIMITS = {
    "fp32": 2.0,  # error against fp64 over the reference's own, the worst way of packing; honest: 0.96-1.06
    "loss": 4.0,  # the same for the few losses of documents; honest: 0.15-1.72
    "end_to_end": 1.15,  # in bf16, the same for the middle token's logits; honest: 0.89-1.02
    "blocks": 1.05,  # in bf16, the worst block, each given the same hidden states; honest: 0.92-1.01
    "operations": 0.0,  # sensitive operations in fewer bits than the reference's in the same part
    "entering": 0.0,  # numbers that enter the first block with another bit
    "tables": 0.0,  # tables of cosines and sines that are none of the reference's
    "buffers": 0.0,  # buffers with another bit
    "stored": 0.0,  # tensors that the model holds in fewer bits than the reference
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OPERATION, TABLE, BUFFER, STORED, PACKED = "operation.", "table.", "buffer.", "stored.", "packed."
# an activation may be written with these, so they are compared in the same part only
LOCAL = {"add", "mul", "div", "mean", "sqrt", "exp", "tanh", "sigmoid", "matmul", "var"}
LEAVES = {"add", "mul", "div"}  # in what consists of parts they are everywhere
FLOOR = 2.0**-24  # of a result: no fp32 is exacter than that


def applies(metric: str, theirs: dict[str, Tensor]) -> bool:
    """Of a family without inputs whose routing is as clear in bf16 there are no blocks to compare."""
    return "logits.fp64" in theirs and (metric != "blocks" or "blocks.fp64" in theirs)


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of both fp32 and bf16 logits (T, V), losses (D,), blocks (S, L, T, D) and what is looked at on the way.

    Of the reference fp64 too: what all errors are measured against.
    """
    if "precise.ids" not in inputs:
        return {}
    found: dict[str, Tensor] = {}
    ids, lengths = inputs["precise.ids"], inputs["precise.lengths"]
    targets = _targets(ids, lengths)
    models = {name: subject.at(dtype) for name, dtype in DTYPES.items()}
    if subject.is_reference:
        models["fp64"] = subject.exact()
    for name in models.keys() - {"bf16"}:
        found[f"loss.{name}"] = models[name].losses(ids, lengths.tolist(), targets)
    if subject.is_reference:
        for name, model in models.items():
            documents = ids.split(lengths.tolist())
            found[f"logits.{name}"] = torch.cat([model.logits(document) for document in documents])
    else:
        places = {"lengths": lengths, "row": 2 * torch.arange(len(lengths)) // len(lengths)}
        for way, logits in models["fp32"].packed(ids, places).items():
            found[PACKED + way] = logits
        found["logits.bf16"] = models["bf16"].packed(ids, places, ("documents",))["documents-right"]
    if "forced" in inputs:
        for name in models.keys() - {"fp32"}:
            found[f"blocks.{name}"] = subject.forced(models[name], inputs["forced"])
    return found | _looked_at(subject, models["bf16"], max(ids.split(lengths.tolist()), key=len))


def _targets(ids: Tensor, lengths: Tensor) -> Tensor:
    """The next token; after a document's last there is none."""
    targets = ids.roll(-1)
    targets[lengths.cumsum(0) - 1] = -100
    return targets


def _looked_at(subject: Any, model: Any, ids_T: Tensor) -> dict[str, Tensor]:
    """What bf16 may not change, in the model as a user opens it."""
    buffers = {name: buffer for name, buffer in model.module.named_buffers() if buffer.numel()}
    operations = subject.operations(model, ids_T)
    entering, tables = subject.entering(model, ids_T)
    # other names for the same things: neither has to have all that the other has
    side = "their_" if subject.is_reference else ""
    return {
        "entering": entering,
        **{f"{side}{OPERATION}{name}": bits for name, bits in operations.items()},
        **{f"{side}{TABLE}{at}": table for at, table in enumerate(tables)},
        **{f"{side}{BUFFER}{name}": buffer for name, buffer in buffers.items()},
        **{f"{side}{STORED}{key}": bits for key, bits in model.stored().items()},
    }


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "logits.fp64" not in theirs:
        return {}
    right, single = theirs["logits.fp64"], theirs["logits.fp32"]
    found = {
        "fp32": _worst([_ratio(logits, single, right) for logits in _named(ours, PACKED).values()]),
        "loss": _of_losses(ours, theirs),
        "end_to_end": _typical(ours["logits.bf16"], theirs["logits.bf16"], right),
        "operations": float(len(_coarser(ours, theirs))),
        "entering": float((ours["entering"] != theirs["entering"]).sum()),
        "tables": float(len(_foreign_tables(ours, theirs))),
        "buffers": float(len(_changed_buffers(ours, theirs))),
        "stored": float(len(_coarsely_stored(ours, theirs))),
    }
    return found | ({"blocks": _worst(_of_blocks(ours, theirs))} if "blocks.fp64" in theirs else {})


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Operations, tables and tensors by name; then the blocks that err more than the reference's."""
    said = [
        f"{place or 'the model'}: {operation} in {has} bits, in the reference {had}"
        for place, operation, has, had in _coarser(ours, theirs)
    ]
    if not torch.equal(ours["entering"], theirs["entering"]):
        said.append(
            "what enters the first block differs in bf16: see where the embedding is scaled and rounded"
        )
    if _foreign_tables(ours, theirs):
        said.append(
            "the cosines and sines that the rotary module gives in bf16 are not the reference's: angles are "
            "computed in fp32 by a module of the reference's name, and rounded last"
        )
    said += [f"the buffer {name} has other bits in bf16" for name in _changed_buffers(ours, theirs)]
    said += [f"{key} is held in fewer bits than in the reference" for key in _coarsely_stored(ours, theirs)]
    right, single = theirs["logits.fp64"], theirs["logits.fp32"]
    for way, logits in _named(ours, PACKED).items():
        if not (ratio := _ratio(logits, single, right)) <= LIMITS["fp32"]:
            said.append(f"in fp32, packed by {way}, it errs {ratio:.3g} times as much as the reference")
    if not (ratio := _of_losses(ours, theirs)) <= LIMITS["loss"]:
        said.append(f"in fp32 its loss errs {ratio:.3g} times as much as the reference's")
    if not (ratio := _typical(ours["logits.bf16"], theirs["logits.bf16"], right)) <= LIMITS["end_to_end"]:
        said.append(f"in bf16 its logits err {ratio:.3g} times as much as the reference's")
    if "blocks.fp64" in theirs:
        for layer, ratio in enumerate(_of_blocks(ours, theirs)):
            if not ratio <= LIMITS["blocks"]:
                said.append(f"block {layer} errs {ratio:.3g} times as much as the reference's in bf16")
    return said


def _ratio(ours: Tensor, theirs: Tensor, right: Tensor) -> float:
    """The error over the reference's own, which counts as no smaller than fp32 can be."""
    ours, theirs = ours.double() - right, theirs.double() - right
    return (ours.norm() / max(theirs.norm(), FLOOR * right.norm())).item()


def _typical(ours: Tensor, theirs: Tensor, right: Tensor) -> float:
    """The same of the middle token: where an expert is chosen by a hair, one rounding moves a token far."""
    return (
        (ours.double() - right).norm(dim=-1).median() / (theirs.double() - right).norm(dim=-1).median()
    ).item()


def _of_losses(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Few losses may all be right by chance: their error counts as no smaller than the logits' makes it."""
    error_TV = theirs["logits.fp32"].double() - theirs["logits.fp64"]
    implied = error_TV.square().mean().sqrt() * len(error_TV) ** 0.5
    right = theirs["loss.fp64"]
    own = max((theirs["loss.fp32"].double() - right).norm(), implied, FLOOR * right.norm())
    return ((ours["loss.fp32"].double() - right).norm() / own).item()


def _worst(values: list[float]) -> float:
    """NaN where one is, or where there are none."""
    return torch.tensor(values, dtype=torch.float64).max().item() if values else float("nan")


def _of_blocks(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[float]:
    """Of each block, its ratio over all samples."""
    blocks = (said.unbind(1) for said in (ours["blocks.bf16"], theirs["blocks.bf16"], theirs["blocks.fp64"]))
    return [_ratio(*block) for block in zip(*blocks, strict=True)]


def _named(said: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in said.items() if name.startswith(start)}


def _coarser(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[tuple[str, str, int, int]]:
    """(part, operation, bits, the reference's bits) where the port has fewer."""
    has, had = _operations(_named(ours, OPERATION)), _operations(_named(theirs, f"their_{OPERATION}"))
    found = []
    for (place, operation), bits in sorted(has.items()):
        known = _known(place, operation, had)
        if known is not None and bits < known:
            found.append((place, operation, bits, known))
    return found


def _operations(said: dict[str, Tensor]) -> dict[tuple[str, str], int]:
    """(part, operation) -> bits; (part, "") for each part that there is."""
    pairs = {(*name.rsplit("/", 1),): int(bits) for name, bits in said.items()}
    return {(place, operation): bits for (place, operation), bits in pairs.items()}


def _known(place: str, operation: str, had: dict[tuple[str, str], int]) -> int | None:
    """The reference's fewest bits for an operation at the nearest part that it has, too."""
    parts = {part for part, _ in had}
    while place not in parts:
        place = place.rpartition(".")[0]
    is_leaf = not any(part.startswith(f"{place}.") for part in parts) and place
    if operation in LEAVES and not is_leaf:
        return None
    while True:
        bits = [
            count
            for (part, name), count in had.items()
            if name == operation and (not place or f"{part}.".startswith(f"{place}."))
        ]
        if bits or operation in LOCAL or not place:
            return min(bits, default=None)
        place = place.rpartition(".")[0]


def _foreign_tables(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Those of the port that are none of the reference's; "none" where it should have some."""
    has, had = _named(ours, TABLE), _named(theirs, f"their_{TABLE}").values()
    if had and not has:
        return ["none"]
    return [name for name, table in has.items() if had and not any(_same(table, other) for other in had)]


def _changed_buffers(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    has, had = _named(ours, BUFFER), _named(theirs, f"their_{BUFFER}")
    return [name for name in sorted(has.keys() & had.keys()) if not _same(has[name], had[name])]


def _coarsely_stored(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    has, had = _named(ours, STORED), _named(theirs, f"their_{STORED}")
    return [key for key in sorted(had) if key not in has or has[key] < had[key]]


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
