"""Where do a run's weights come from, which are kept, and where do they go?"""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ptw.errors import PtwError
from ptw.ports.export import export
from ptw.ports.load import Loaded, Spread, create, load
from ptw.ports.source import resolve
from ptw.runs.record import MODEL
from ptw.tokens.tokenizer import Tokenizer
from ptw.train import checkpoint
from ptw.train.group import Group
from ptw.train.parallel import full_state, recompute, spreading
from ptw.train.plan import Plan

if TYPE_CHECKING:
    from ptw.train.run import Run

BEST = "best-step-"


@dataclass(frozen=True)
class Best:
    """The highest score so far, and the folder under the run's that holds its model."""

    score: float = -math.inf
    folder: str | None = None


def open_for_training(
    plan: Plan, tokenizer: Tokenizer, seed: int, group: Group, precision: str = "fp32"
) -> Loaded:
    """The plan's model in fp32, spread over the workers: each has in memory only what it holds.

    PtwError if its table lacks ids of the tokenizer, or if it cannot be spread as the cluster asks.
    """
    spread = spreading(plan.cluster, group, precision, f"model {plan.model.name}")
    loaded = _opened(plan, tokenizer, seed, group, spread)
    if plan.cluster.recompute:
        recompute(loaded.module)
    return loaded


def _opened(plan: Plan, tokenizer: Tokenizer, seed: int, group: Group, spread: Spread | None) -> Loaded:
    entry = plan.model
    if entry.hf is None:
        ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        special = {f"{name}_token_id": id_ for name, id_ in ids.items() if id_ is not None}
        config = {**(entry.config or {}), "vocab_size": tokenizer.size, **special}
        return create(config, plan.root, seed=seed, device=group.device, spread=spread)
    folder = resolve(entry.hf, entry.revision, plan.root)
    loaded = load(folder, plan.root, port=entry.port, dtype=torch.float32, device=group.device, spread=spread)
    size = loaded.hf_config.get("vocab_size", tokenizer.size)
    if tokenizer.size > size:
        raise PtwError(
            f"tokenizer {tokenizer.name} has ids up to {tokenizer.size - 1}, but model {entry.name} has only "
            f"{size} rows in its table: name the tokenizer that belongs to the model"
        )
    return loaded


def demand_window(loaded: Loaded, window: int) -> None:
    """PtwError if the window is longer than the positions that the model is made for."""
    positions = loaded.hf_config.get("max_position_embeddings")
    if isinstance(positions, int) and window > positions:
        raise PtwError(
            f"settings: window = {window}: the model has max_position_embeddings = {positions}; "
            f"set window to {positions} or less"
        )


def keep(run: "Run", score: float) -> Best:
    """Write the model as it is now beside the checkpoints."""
    best = Best(score, f"{BEST}{run.steps_done:08d}")
    _write(run, run.plan.run_folder() / f"{BEST}{run.steps_done:08d}")
    run.ledger.say(f"best so far after step {run.steps_done}: {score:.4f}")
    return best


def forget(run_folder: Path, best: Best, group: Group) -> None:
    """Models go that neither the run nor one of its checkpoints can call the best."""
    if not group.first:
        return
    folders = sorted(run_folder.glob(f"{BEST}*"))
    named = {best.folder}
    for saved in checkpoint.complete(run_folder):
        newest = f"{BEST}{checkpoint.step_of(saved):08d}"
        # the last until then; one measured at that very step may have come after the checkpoint
        named |= {folder.name for folder in [f for f in folders if f.name <= newest][-2:]}
    for folder in folders:
        if folder.name not in named:
            shutil.rmtree(folder, ignore_errors=True)


def publish(run: "Run") -> None:
    """The best model, or the model as it is now, becomes the run's model."""
    target = run.plan.run_folder() / MODEL
    best = None if run.best.folder is None else run.plan.run_folder() / run.best.folder
    if best is None:
        _write(run, target)
    elif run.group.shared(best.is_dir()):
        if run.group.first:
            shutil.rmtree(target, ignore_errors=True)
            best.rename(target)
    elif not run.group.shared(target.is_dir()):  # it is published already where a run ended right after that
        raise PtwError(f"{best}: the best model is gone; copy it back, or start a new run")
    if run.group.first:
        for folder in run.plan.run_folder().glob(f"{BEST}*"):
            shutil.rmtree(folder, ignore_errors=True)
    run.group.wait()


def _write_generation_config(tokenizer: Tokenizer, folder: Path) -> None:
    """Where transformers and vLLM look for the ids that end an answer: a turn ends before the text does."""
    ids = {"bos": tokenizer.bos_id, "pad": tokenizer.pad_id, "eos": sorted(tokenizer.stop_ids) or None}
    values = {f"{name}_token_id": value for name, value in ids.items() if value is not None}
    (folder / "generation_config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write(run: "Run", folder: Path) -> None:
    """HF's format and the tokenizer; in the checkpoint's own dtype where the run computed in bf16."""
    state = full_state(run.loaded.module, run.group.first)
    fault = None
    if run.group.first:
        declared = run.loaded.hf_config.get("dtype") or run.loaded.hf_config.get("torch_dtype")
        dtype = getattr(torch, str(declared).removeprefix("torch."), torch.float32)
        if run.precision == "bf16" and run.plan.model.hf is not None:
            state = {name: tensor.to(dtype) for name, tensor in state.items()}
        aside = folder.with_name(f".writing-{folder.name}")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            export(run.loaded, aside, state=state)
            run.tokenizer.save(aside)
            _write_generation_config(run.tokenizer, aside)
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        except (OSError, PtwError) as error:
            fault = str(error)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    fault = run.group.shared(fault)
    if fault is not None:
        raise PtwError(f"{folder}: the model cannot be saved: {fault}; make room, then go on with --resume")
