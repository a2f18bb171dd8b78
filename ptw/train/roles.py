"""How does a model take part in a run that does not learn in it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ptw.errors import PtwError
from ptw.ports.load import load
from ptw.ports.scores import SCORES
from ptw.ports.source import resolve
from ptw.tokens import fingerprint
from ptw.tokens.tokenizer import load_tokenizer
from ptw.train.parallel import spreading
from ptw.workspace.manifest import ModelEntry

if TYPE_CHECKING:
    from ptw.train.run import Run


def open_role(run: Run, role: str) -> nn.Module:
    """The plan's model of this role, as `open_frozen` has it."""
    return open_frozen(run, run.plan.roles[role], role)


def open_frozen(run: Run, entry: ModelEntry, role: str) -> nn.Module:
    """A model that does not learn, in the run's precision, and spread as the one that does.

    PtwError for one without weights or words, and for one to which the run's ids mean other tokens.
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
            f"tokenizer {run.tokenizer.name} gives other ids than {who} has ({difference}): its logits are "
            "of other tokens; name a model of the same tokenizer, or learn its answers with sft"
        )
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    spread = spreading(plan.cluster, group, settings.precision, who)
    loaded = load(folder, plan.root, port=entry.port, dtype=dtype, device=group.device, spread=spread)
    if any(name == SCORES for name, _ in loaded.module.named_parameters()):
        raise PtwError(f"{who} gives scores in place of words; name a model of words")
    for note in loaded.notes:
        run.ledger.say(f"{who}: {note}")
    return loaded.module.eval().requires_grad_(False)
