"""How does training survive a crash? Checkpoints that are whole or not there at all."""

import errno
import json
import re
import secrets
import shutil
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from ptw.errors import PtwError
from ptw.ports.parallel import reshard
from ptw.runs.record import CHECKPOINTS, write_json
from ptw.train.group import Group

SEAL = "complete.json"  # the last file written: each other file with its size and sum
STATE = "state.pt"
ASIDE = ".saving-"
FOLDER = re.compile(r"step-(\d{8})")
BLOCK_BYTES = 2**22

Say = Callable[[str], None]


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest so many, and for good those of each multiple of `every` steps."""

    newest: int = 2
    every: int | None = None

    def dropped(self, folders: Sequence[Path]) -> list[Path]:
        """Of all, the oldest first, those that go."""
        return [f for f in folders[: -self.newest] if self.every is None or step_of(f) % self.every]


def contents(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The tensors that a checkpoint holds, as they are in memory now. Not for a thread beside training."""
    _expect_one_worker()
    reshard(module)
    model_state, optimizer_state = get_state_dict(module, optimizer)
    return {"model": _learnt(module, model_state), "optimizer": optimizer_state}


def save(
    run: Path,
    step: int,
    tensors: Mapping[str, Any],
    state: Mapping[str, Any],
    group: Group,
    keep: Keep = Keep(),
) -> Path:
    """The checkpoint of this step, written aside and renamed once it is whole; what is not kept goes.

    `tensors` are `contents`, or a copy; `state` is the first worker's; all workers call this together. A full
    disk is a PtwError, and leaves the earlier checkpoints as they were and nothing half-written.
    """
    folder = run / CHECKPOINTS / f"step-{step:08d}"
    aside, fault = group.shared(_prepared(folder) if group.first else None)
    faults = [fault] if fault else [f for f in group.gathered(_write(aside, tensors, state, group)) if f]
    if group.first:
        if not faults:
            faults = _publish(aside, folder)
        shutil.rmtree(aside, ignore_errors=True)
        for old in [] if faults else keep.dropped(complete(run)):
            shutil.rmtree(old, ignore_errors=True)
    faults = group.shared(faults)
    if faults:
        raise PtwError(
            f"{folder}: the checkpoint of step {step} cannot be saved: {faults[0]}; the one before stands. "
            "Make room, then go on with --resume"
        )
    return folder


def complete(run: Path) -> list[Path]:
    """The checkpoints that were published, the oldest first."""
    folders = (run / CHECKPOINTS).glob("step-*")
    return sorted(path for path in folders if FOLDER.fullmatch(path.name) and (path / SEAL).is_file())


def step_of(folder: Path) -> int:
    match = FOLDER.fullmatch(folder.name)
    assert match
    return int(match[1])


def newest(run: Path, group: Group, say: Say) -> Path | None:
    """The newest checkpoint whose files are as they were written; each bad one is named and skipped."""
    for folder in reversed(group.shared(complete(run))):
        faults = [fault for fault in group.gathered(fault_of(folder, group)) if fault]
        if not faults:
            found: Path = folder
            return found
        if group.first:
            say(f"{folder}: skipped, {faults[0]}")
    return None


def fault_of(folder: Path, group: Group) -> str | None:
    """What is wrong with this worker's share of a checkpoint's files."""
    try:
        sums = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        for name, (size, total) in list(sums.items())[group.rank :: group.world]:
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes of {size}"
            if _sum(path) != total:
                return f"{name} is corrupt"
    except (OSError, ValueError, AttributeError) as error:
        return f"{SEAL} cannot be read: {error}"
    return None


def load(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Fill module and optimizer, however many workers wrote it and read it; the other state comes back."""
    model_state, optimizer_state = get_state_dict(module, [] if optimizer is None else optimizer)
    wanted: dict[str, Any] = {"model": _learnt(module, model_state)}
    if optimizer is not None:
        wanted["optimizer"] = optimizer_state
    alone = not torch.distributed.is_initialized()
    _expect_one_worker()
    distributed_checkpoint.load(wanted, storage_reader=FileSystemReader(folder), no_dist=alone)
    set_state_dict(
        module,
        [] if optimizer is None else optimizer,
        model_state_dict={**model_state, **wanted["model"]},
        optim_state_dict=wanted.get("optimizer", {}),
    )
    return state_of(folder)


def state_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint holds beside tensors."""
    state: dict[str, Any] = torch.load(folder / STATE, weights_only=True)
    return state


def _prepared(folder: Path) -> tuple[Path, str | None]:
    """An empty folder to write in, which no worker of a launch that was killed knows, or what went wrong."""
    aside = folder.with_name(f"{ASIDE}{folder.name}-{secrets.token_hex(4)}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{ASIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
        aside.mkdir()
    except OSError as error:
        return aside, error.strerror or str(error)
    return aside, None


def _write(aside: Path, tensors: Mapping[str, Any], state: Mapping[str, Any], group: Group) -> str | None:
    """This worker's files; what went wrong, if anything did."""
    try:
        distributed_checkpoint.save(
            dict(tensors),
            storage_writer=FileSystemWriter(aside),
            process_group=group.channel,
            no_dist=group.world == 1,
        )
        if group.first:  # after what all write together: the others would wait for it if this failed
            torch.save(dict(state), aside / STATE)
    except (OSError, RuntimeError, CheckpointException) as error:
        return reason(error)
    return None


def _learnt(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is frozen: it is as it was when the run began."""
    named = module.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in named if not parameter.requires_grad}
    return {name: value for name, value in state.items() if name not in frozen}


def _publish(aside: Path, folder: Path) -> list[str]:
    try:
        sums = {path.name: [path.stat().st_size, _sum(path)] for path in sorted(aside.iterdir())}
        write_json(aside / SEAL, sums)
        if folder.exists():  # a bad one, or of an earlier try
            shutil.rmtree(folder)
        aside.rename(folder)
    except (OSError, PtwError) as error:
        return [reason(error)]
    return []


def _sum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            total = zlib.crc32(block, total)
    return total


def reason(error: BaseException) -> str:
    """The disk's own words, from however deep."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return "the disk is full" if cause.errno != errno.EFBIG else "the file would be too large"
        cause = cause.__cause__ or cause.__context__
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _expect_one_worker() -> None:
    """Not to be warned of what is right where there is no process group.

    For the whole process: another thread may be saving, and filters of warnings are not a thread's own.
    """
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
