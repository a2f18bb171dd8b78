"""What was a run's model at a step that has a checkpoint? `RUN@STEP` names it where a run is named."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from ptw.errors import PtwError
from ptw.ports.load import Loaded
from ptw.ports.scores import Scores
from ptw.runs import record
from ptw.runs.export import demand_free, export_run
from ptw.runs.open import Opened, open_named, open_run_folder
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.tokenizer import Tokenizer
from ptw.train import checkpoint, weights
from ptw.train.facts import demand_base
from ptw.train.group import Group, joined
from ptw.train.parallel import full_state
from ptw.train.plan import Plan
from ptw.train.settings import TrainingSettings
from ptw.workspace.manifest import Workspace

AT = "@"


@dataclass
class Moment:
    """A run as it was at a step, held by one process, however many workers trained it."""

    plan: Plan
    settings: TrainingSettings
    group: Group
    tokenizer: Tokenizer
    pooling: str | None  # of a model that gives vectors
    loaded: Loaded = field(init=False)


def open_at(workspace: Workspace, name: str) -> Opened:
    """The model of this name: of workspace.toml, of a run, or of a run at a step."""
    if AT not in name:
        return open_named(workspace, name)
    found, folder = _checkpoint(workspace, name)
    with TemporaryDirectory(prefix="ptw-") as aside:
        model = Path(aside) / record.MODEL
        _write(workspace, found, folder, model, adapter=False)
        return open_run_folder(workspace, found, model, f"{found.name}{AT}{checkpoint.step_of(folder)}")


def export(workspace: Workspace, name: str, folder: Path, adapter: bool = False) -> Path:
    """The model of a run, or of a run at a step, in a new folder, which appears whole or not at all.

    Of a step it is to the bit what the run would have saved there. adapter: as of `export_run`.
    """
    if AT not in name:
        return export_run(workspace, name, folder, adapter)
    demand_free(folder)
    found, source = _checkpoint(workspace, name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(workspace, found, source, folder, adapter)
    except OSError as error:
        raise PtwError(f"{folder}: cannot be written: {error}; make room, or name another folder") from error
    return folder


def _checkpoint(workspace: Workspace, name: str) -> tuple[record.RunRecord, Path]:
    """The run and the checkpoint; PtwError if it is not there or not as it was written."""
    run, _, step = name.rpartition(AT)
    found = record.open_run(workspace.root, run)
    folders = {str(checkpoint.step_of(folder)): folder for folder in checkpoint.complete(found.folder)}
    if step not in folders:
        fetch = "; `ptw runs fetch --checkpoints` brings those of a cluster" if found.job is not None else ""
        known = ", ".join(folders) or "none"
        raise PtwError(
            f"{name}: run {found.name} has no checkpoint of step {step}; there are: {known}{fetch}"
        )
    fault = checkpoint.fault_of(folders[step], _alone(torch.device("cpu")))
    if fault is not None:
        raise PtwError(f"{folders[step]}: {fault}; there are: {', '.join(folders)}")
    return found, folders[step]


def _write(
    workspace: Workspace, found: record.RunRecord, checkpointed: Path, folder: Path, adapter: bool
) -> None:
    held = _opened(workspace, found, checkpointed)
    state = full_state(held.loaded.module, first=True)
    with weights.made(folder) as aside:
        if adapter:
            weights.write_adapter(held, aside, state)
        else:
            for note in weights.write_model(held, aside, state):
                sys.stderr.write(f"{note}\n")
    if not folder.exists():
        raise PtwError(
            f"run {found.name} has no adapter, for all of its model learnt; export it without --adapter"
        )


def _opened(workspace: Workspace, found: record.RunRecord, folder: Path) -> Moment:
    plan = dataclasses.replace(Plan.from_json(found.plan), root=workspace.root, folder=found.folder)
    settings = _settings(plan.settings)
    if settings.adapter != "none":
        demand_base(plan)
    with joined() as here:  # a base is packed where it was packed for training
        device = here.device if settings.adapter == "qlora" else torch.device("cpu")
    tokenizer, state = open_tokenizer(plan.workspace(), plan.tokenizer.name), checkpoint.state_of(folder)
    moment = Moment(plan, settings, _alone(device), tokenizer, state.get("pooling"))
    try:
        moment.loaded, _ = weights.open_for_training(moment, state["scores"] and Scores(**state["scores"]))
        checkpoint.load(folder, moment.loaded.module, None)
    except (OSError, RuntimeError, ValueError, KeyError, CheckpointException) as error:
        raise PtwError(f"{folder}: does not fit the model of the run: {checkpoint.reason(error)}") from error
    return moment


def _settings(values: Mapping[str, Any]) -> TrainingSettings:
    """Those that every recipe has."""
    names = {setting.name for setting in dataclasses.fields(TrainingSettings)}
    return TrainingSettings(**{name: value for name, value in values.items() if name in names})


def _alone(device: torch.device) -> Group:
    return Group(0, 1, device)
