"""Does a worker's memory fit on its device, and what would do where it does not? As `--dry-run` tells it."""

from __future__ import annotations

import dataclasses
import os
from collections import ChainMap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ptw.errors import PtwError
from ptw.train.memory import Memory, estimate
from ptw.train.plan import Plan
from ptw.train.settings import TrainingSettings
from ptw.workspace import rooms

LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
GB, MB = 1e9, 1e6
Row = tuple[str, str, str]
Change = tuple[str, dict[str, Any], dict[str, Any]]  # as it is said; of the cluster; of the settings


@dataclasses.dataclass(frozen=True)
class Room:
    """What a worker's device has for it, in bytes; None: not known from here, and `what` says why."""

    bytes: int | None
    what: str


def told(plan: Plan) -> str:
    """Part by part; a dash where it cannot be known, with the reason."""
    settings = rooms.load(plan.file).Settings(**plan.settings)
    if not isinstance(settings, TrainingSettings):
        return _table([("memory", "-", f"{plan.file.stem} trains nothing, and only training is counted")])
    try:
        found = estimate(plan, settings)
    except PtwError as error:
        return _table([("memory", "-", str(error))])
    room = room_of(plan)
    lines = [
        ("memory", "", "of the worker that needs most, before anything runs"),
        *_parts(found, plan, settings),
    ]
    lines.append(_verdict(found, room))
    if found.together is not None and room.bytes is not None and found.together > room.bytes:
        lines += _what_would_do(plan, settings)
    return _table([*lines, *(("", "", note) for note in _remarks(found, plan))])


def room_of(plan: Plan) -> Room:
    cluster = plan.cluster
    if cluster.address is not None:
        return Room(None, f"the machines of cluster {cluster.name} are not seen from here")
    if cluster.gpus_per_worker:
        if not torch.cuda.is_available():
            return Room(None, "there is no GPU on this machine")
        device = torch.cuda.get_device_properties(0)
        return Room(int(device.total_memory * min(1, cluster.gpus_per_worker)), f"memory of {device.name}")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = LIMIT.read_text().strip() if LIMIT.is_file() else "max"
    total = min(total, int(limit)) if limit.isdigit() else total
    part = "RAM of this machine" if cluster.workers == 1 else f"a part of {cluster.workers} of its RAM"
    return Room(total // cluster.workers, part)


def in_words(size: float) -> str:
    """Bytes, with what a person reads."""
    return f"{size / GB:,.2f} GB" if size >= GB else f"{size / MB:,.2f} MB"


def _parts(found: Memory, plan: Plan, settings: TrainingSettings) -> Iterator[Row]:
    computed, of_pass = settings.precision, found.of_pass
    held = "NF4, and the rest" if settings.adapter == "qlora" else _dtype_of(settings)
    yield "  weights", in_words(found.weights), f"{found.parameters:,} parameters in {held}"
    yield "  gradients", in_words(found.gradients), f"of {found.trained:,} that learn"
    yield "  optimizer", in_words(found.optimizer), "AdamW's two moments"
    for role, size in found.roles.items():
        what = f"weights of {plan.roles[role].name}, in {computed}, while it is held"
        yield f"  {role}", in_words(size), what
    if of_pass is None:
        yield "  activations", "-", ""
        return
    if found.whole:
        name, of = ("unpacked", "matrix") if plan.cluster.workers == 1 else ("gathered", "block")
        yield f"  {name}", in_words(found.whole), f"{of} by {of}, what is whole for a while"
    if of_pass.cast:
        yield "  cast", in_words(of_pass.cast), f"weights in {computed}, while a pass computes with them"
    again = ", each block's input" if plan.cluster.recompute else ""
    what = f"kept for backward of {found.rows} rows x {settings.window} tokens{again}"
    yield "  activations", in_words(of_pass.activations), what
    if of_pass.loss is None:
        yield "  loss", "-", ""
    else:
        yield "  loss", in_words(of_pass.loss), "logits, in chunks, and gradients that are made with them"
    if found.copy:
        yield "  checkpoint", in_words(found.copy), "the copy that is written while training goes on"
    assert found.together is not None
    but = ", without the loss" if of_pass.loss is None else ""
    what = f"the most at once{but}: gradients come while activations go"
    yield "  together", in_words(found.together), what


def _dtype_of(settings: TrainingSettings) -> str:
    base = settings.precision if settings.adapter != "none" else "fp32"
    return base if base == "fp32" else "bf16, the adapter's in fp32"


def _verdict(found: Memory, room: Room) -> Row:
    needed, there = found.together, room.bytes
    if there is None:
        return "  fits", "-", room.what
    what = f"in {in_words(there)}, {room.what}"
    if needed is not None and needed > there:
        return "  fits", "no", what
    known = needed is not None and found.of_pass is not None and found.of_pass.loss is not None
    return "  fits", "yes" if known else "-", what


def _what_would_do(plan: Plan, settings: TrainingSettings) -> Iterator[Row]:
    """What each change makes of it, and all of them together."""
    changes = list(_changes(plan, settings))
    if len(changes) > 1:
        names, clusters, others = zip(*changes, strict=True)
        changes.append((", ".join(names), dict(ChainMap(*clusters)), dict(ChainMap(*others))))
    for name, of_cluster, of_settings in changes:
        other = dataclasses.replace(plan, cluster=dataclasses.replace(plan.cluster, **of_cluster))
        try:
            needed = estimate(other, dataclasses.replace(settings, **of_settings)).together
        except PtwError:  # it is not for this model
            continue
        room = room_of(other).bytes
        if needed is not None and room is not None:
            yield "", in_words(needed), f"{'fits' if needed <= room else 'does not fit'}, with {name}"


def _changes(plan: Plan, settings: TrainingSettings) -> Iterator[Change]:
    cluster = plan.cluster
    if settings.rows_at_once > 1:
        yield "rows_at_once = 1", {}, {"rows_at_once": 1}
    if not cluster.recompute:
        yield "recompute = true", {"recompute": True}, {}
    if settings.adapter == "none" and settings.stage == "all" and plan.model.hf is not None:
        yield 'adapter = "lora"', {}, {"adapter": "lora"}
    if cluster.gpus_per_worker:  # more workers have more devices
        yield f"workers = {2 * cluster.workers}", {"workers": 2 * cluster.workers}, {}


def _remarks(found: Memory, plan: Plan) -> Iterator[str]:
    yield from found.notes
    if found.of_pass is not None and plan.cluster.gpus_per_worker:
        yield "with a CPU's kernels: a GPU's attention keeps keys once for a group of heads, which is less"
    yield "of tensors alone: Python, torch and what an allocator keeps of freed memory come on top"


def _table(rows: list[Row]) -> str:
    return "\n".join(f"{name:<16} {size:>12}  {what}".rstrip() for name, size, what in rows)
