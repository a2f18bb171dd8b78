"""Where do a run's weights come from, which are kept, and where do they go?"""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.ports import adapter, adapting, compiled, quantise
from ptw.ports.classifier import AUTO, is_brought
from ptw.ports.export import export
from ptw.ports.load import Loaded, Prepare, Spread, create, load
from ptw.ports.port import Port
from ptw.ports.scores import Scores, own_head, scores_in
from ptw.ports.source import resolve
from ptw.ports.weights import Operator
from ptw.runs.record import ADAPTER, MODEL
from ptw.tokens import fingerprint
from ptw.tokens.closing import closing
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.train import adapted, beside, checkpoint, new_rows
from ptw.train.facts import demand_tokenizer
from ptw.train.flops import Work, work_of
from ptw.train.group import Group
from ptw.train.growing import declared_ids, growth_of
from ptw.train.parallel import full_state, recompute, spreading
from ptw.train.plan import Plan
from ptw.train.settings import SampledSettings, TrainingSettings

if TYPE_CHECKING:
    from ptw.train.run import Run

BEST = "best-step-"
UNCOUNTED = "MFU: -, for how much this model computes cannot be counted: of a recurrent state, or no matrices"
TOLD = 1e-3  # of the adapter's change: a loss by rounding that is worth a word


@dataclass(frozen=True)
class Best:
    """The highest score so far, and the folder under the run's that holds its model."""

    score: float = -math.inf
    folder: str | None = None


class Holder(Protocol):
    """What of a run its weights depend on, and the model that they are in."""

    plan: Plan
    settings: TrainingSettings
    group: Group
    tokenizer: Tokenizer
    loaded: Loaded
    pooling: str | None  # of a model that gives vectors


def open_for_training(run: Holder, scores: Scores | None) -> tuple[Loaded, Work | None]:
    """The plan's model, spread over the workers, and what it computes (None: unknown), seen before it is cut.

    With `scores` it gives these of a text in place of words; where it gives vectors its head is frozen. In
    fp32; beneath an adapter in the precision of the run. PtwError if the tokenizer is not the run's, or not
    the model's: its table lacks ids, or it had others; for an adapter that can't be; and if it cannot be
    spread as the cluster asks.
    """
    works: list[Work | None] = []
    plan, group, settings = run.plan, run.group, run.settings
    spread = spreading(plan.cluster, group, settings.precision, f"model {plan.model.name}")

    rows_alone = settings.stage == "new-rows"
    if rows_alone:
        new_rows.demand_sense(run, scores is not None)

    def measured(module: nn.Module, port: Port | None, config: Any) -> None:
        if rows_alone:
            new_rows.freeze(module, port, config)
        works.append(work_of(module))
        if spread is not None:
            spread(module, port, config)

    def prepared(loaded: Loaded) -> Sequence[Operator]:
        operators = adapted.begin(loaded, settings, settings.seed, group.device)
        if (projection := scores_in(loaded.module)) is not None:
            loaded.module.get_parameter(projection).requires_grad_(True)
        return operators

    loaded = _opened(run, scores, prepared, None if spread is None else measured)
    if spread is None:
        measured(loaded.module, loaded.port, getattr(loaded.module, "config", None))
    loaded = replace(loaded, notes=(*loaded.notes, *adapted.notes(loaded, settings)))
    (work,) = works
    if work is None:
        loaded = replace(loaded, notes=(*loaded.notes, UNCOUNTED))
    if is_brought(loaded.hf_config):
        note = f"transformers has no such class: model/ brings it, for {AUTO} with trust_remote_code=True"
        loaded = replace(loaded, notes=(*loaded.notes, note))
    if rows_alone:
        note = new_rows.keep_others(loaded, declared_ids(run))
        loaded = replace(loaded, notes=(*loaded.notes, note))
    if run.pooling is not None:
        _without_words(run, loaded)
    if settings.compile:
        _compile(loaded, plan.model.name)
    if plan.cluster.recompute:
        recompute(loaded.module)
    if work is not None:
        work = replace(work, per_target=work.per_target * _used_of_head(run, loaded))
    return loaded, work


def _used_of_head(run: Holder, loaded: Loaded) -> float:
    """Which part of it a step computes."""
    if run.pooling is not None:
        return 0.0
    if not isinstance(run.settings, SampledSettings) or run.settings.sampled is None:
        return 1.0
    classes: int = loaded.module.head().vocabulary  # type: ignore[operator]
    return min(1.0, (run.settings.sampled + 1) / classes)


def _without_words(run: Holder, loaded: Loaded) -> None:
    """Its head learns nothing. PtwError before the first step if its export would not do."""
    for name in own_head(loaded.module):
        loaded.module.get_parameter(name).requires_grad_(False)
    closing(run.tokenizer)


def _compile(loaded: Loaded, model: str) -> None:
    if loaded.port is None:
        raise PtwError(
            f"settings: compile = true: model {model} has no port, and Hugging Face's class is another graph "
            "for each batch's documents; set compile = false, or let ptw add-model port the family"
        )
    compiled.compile_blocks(loaded.module)


def _opened(run: Holder, scores: Scores | None, prepare: Prepare, spread: Spread | None) -> Loaded:
    plan, settings, tokenizer, device = run.plan, run.settings, run.tokenizer, run.group.device
    demand_tokenizer(plan, tokenizer)
    entry = plan.model
    adapted.demand_sense(settings, entry.hf is None, run.group.tensor)
    if settings.compile:
        compiled.demand_sense(settings.adapter, device)
    scores = scores and replace(scores, seed=settings.seed, pad_id=tokenizer.pad_id)
    if entry.hf is None:
        ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        special = {f"{name}_token_id": id_ for name, id_ in ids.items() if id_ is not None}
        config = {**(entry.config or {}), "vocab_size": tokenizer.size, **special}
        return create(config, plan.root, seed=settings.seed, device=device, spread=spread, scores=scores)
    folder = resolve(entry.hf, entry.revision, plan.root)
    _demand_its_ids(folder, entry.name, tokenizer)
    frozen_in_bf16 = settings.adapter != "none" and settings.precision == "bf16"
    dtype = torch.bfloat16 if frozen_in_bf16 else torch.float32
    growth = growth_of(run, folder)
    loaded = load(
        *(folder, plan.root),
        port=entry.port,
        dtype=dtype,
        device=device,
        prepare=prepare,
        spread=spread,
        scores=scores,
        growth=growth,
    )
    if growth is None:
        return loaded
    told = f"{growth.end - growth.first:,} new rows, {growth.init}, from token {growth.first} on"
    return replace(loaded, notes=(*loaded.notes, told))


def _demand_its_ids(folder: Path, model: str, tokenizer: Tokenizer) -> None:
    """PtwError if ptw trained the model with other ids; more tokens and another chat template may be."""
    if fingerprint.read(folder) in (None, tokenizer.fingerprint):
        return
    difference = fingerprint.first_difference(load_tokenizer(folder), tokenizer)
    if difference is not None:
        raise PtwError(
            f"tokenizer {tokenizer.name} gives other ids than model {model} was trained with ({difference}): "
            f"name a tokenizer with hf = the model's folder, {folder}"
        )


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
    folder = f"{BEST}{run.steps_done:08d}"
    _write(run, run.plan.run_folder() / folder)
    run.ledger.say(f"best so far after step {run.steps_done}: {score:.4f}")
    return Best(score, folder)


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
    """The best model, or the model as it is now, becomes the run's, and so does its adapter."""
    target = run.plan.run_folder()
    best = None if run.best.folder is None else target / run.best.folder
    if best is None:
        _write(run, target)
    elif run.group.shared((best / MODEL).is_dir()):
        if run.group.first:
            for part in sorted(best.iterdir()):  # the model last: with it all is there
                shutil.rmtree(target / part.name, ignore_errors=True)
                part.rename(target / part.name)
    elif not run.group.shared(
        (target / MODEL).is_dir()
    ):  # published already where a run ended right after that
        raise PtwError(f"{best}: the best model is gone; copy it back, or start a new run")
    if run.group.first:
        for folder in target.glob(f"{BEST}*"):
            shutil.rmtree(folder, ignore_errors=True)
    run.group.wait()


def _write(run: "Run", folder: Path) -> None:
    """In the folder: the adapter where there is one, and the model, to which it is added."""
    state = full_state(run.loaded.module, run.group.first)
    fault = None
    if run.group.first:
        try:
            folder.mkdir(exist_ok=True)
            with made(folder / ADAPTER) as aside:
                write_adapter(run, aside, state)
            with made(folder / MODEL) as aside:
                for note in write_model(run, aside, state):
                    run.ledger.say(note)
        except (OSError, PtwError) as error:
            fault = str(error)
    fault = run.group.shared(fault)
    if fault is not None:
        raise PtwError(f"{folder}: the model cannot be saved: {fault}; make room, then go on with --resume")


def write_adapter(run: Holder, folder: Path, state: Mapping[str, Tensor]) -> None:
    """PEFT's format, with the scores where there are any; nothing where there is no adapter."""
    module, base = run.loaded.module, run.plan.model.hf
    if layers := list(adapter.attached(module).values()):
        learnt_too = scores_in(module)
        adapter.save(module, layers[0].settings, folder, state=state, base=base, beside=learnt_too)


def write_model(run: Holder, folder: Path, state: Mapping[str, Tensor]) -> list[str]:
    """HF's format and the tokenizer; in the checkpoint's own dtype where the run computed in bf16.

    What comes back is worth a word. state: full tensors, by the module's names.
    """
    declared = run.loaded.hf_config.get("dtype") or run.loaded.hf_config.get("torch_dtype")
    dtype = getattr(torch, str(declared).removeprefix("torch."), torch.float32)
    narrow = run.settings.precision == "bf16" and run.plan.model.hf is not None
    plain = quantise.unpacked(run.loaded.module, state)
    plain, lost = adapting.merged(run.loaded.module, plain, dtype if narrow else None)
    export(run.loaded, folder, state=plain)
    told = [note for note in [beside.write(run, folder)] if note]
    if lost > TOLD:
        told.append(f"merged in {dtype}: {lost:.1%} of the adapter's change is rounded away; adapter/ has it")
    return told


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """Where to write what then becomes the folder, whole; nothing written leaves no folder."""
    aside = folder.with_name(f".writing-{folder.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        yield aside
        shutil.rmtree(folder, ignore_errors=True)
        if aside.exists():
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
