"""How does a model take part in a run that does not learn in it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ptw.errors import PtwError
from ptw.ports.load import Spread, load
from ptw.ports.scores import scores_in
from ptw.ports.source import resolve
from ptw.tokens import fingerprint
from ptw.tokens.tokenizer import load_tokenizer
from ptw.train.parallel import spreading
from ptw.train.weights import demand_window
from ptw.workspace.manifest import ModelEntry

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling
    from ptw.train.run import Run


def open_role(run: Run, role: str) -> nn.Module:
    """The plan's model of this role, as `open_beside` has it."""
    return open_beside(run, run.plan.roles[role], role)


def open_beside(run: Run, entry: ModelEntry, role: str, gives_scores: bool = False) -> nn.Module:
    """As `open_frozen`, spread as the model that learns."""
    spread = spreading(run.plan.cluster, run.group, run.settings.precision, f"model {entry.name} ({role})")
    return open_frozen(run, entry, role, spread, gives_scores)


def open_frozen(
    run: Run | Labelling, entry: ModelEntry, role: str, spread: Spread | None, gives_scores: bool = False
) -> nn.Module:
    """A model that does not learn, in the run's precision: of words, or of scores.

    PtwError for one without weights, for one that gives the other, and for one to which the run's ids mean
    other tokens.
    """
    plan, settings, group = run.plan, run.settings, run.group
    who = f"model {entry.name} ({role})"
    if entry.hf is None:
        raise PtwError(f"{who} is a shape, which knows nothing: name a model with hf = ...")
    folder = resolve(entry.hf, entry.revision, plan.root)
    theirs = load_tokenizer(folder)
    difference = fingerprint.first_difference(run.tokenizer, theirs)
    if difference is not None:
        raise PtwError(
            f"tokenizer {run.tokenizer.name} gives other ids than {who} has ({difference}): what it says is "
            "of other tokens; name a model of the same tokenizer, or learn its answers with sft"
        )
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    loaded = load(folder, plan.root, port=entry.port, dtype=dtype, device=group.device, spread=spread)
    has_scores = scores_in(loaded.module) is not None
    if has_scores and not gives_scores:
        raise PtwError(f"{who} gives scores in place of words; name a model of words")
    if gives_scores and not has_scores:
        raise PtwError(f"{who} gives words, not scores: name a model that recipes/reward made")
    demand_window(loaded, settings.window)
    for note in loaded.notes:
        run.ledger.say(f"{who}: {note}")
    return loaded.module.eval().requires_grad_(False)
