"""How do only the rows of new tokens learn, and all else stays bit for bit?"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.ports.load import Loaded
from ptw.ports.mapping import padded_tables
from ptw.ports.parallel import held, local
from ptw.ports.port import Port
from ptw.train.growing import Grown, declared_ids


def demand_sense(run: Grown, gives_scores: bool) -> None:
    """PtwError where no row is new, or scores are to learn beside them."""
    if not declared_ids(run):
        raise PtwError(
            f'settings: stage = "new-rows": tokenizer {run.tokenizer.name} declares no new tokens; give it '
            "semantic_ids or special_tokens, or remove the line"
        )
    if gives_scores:
        raise PtwError('settings: stage = "new-rows": scores are to be learnt, too; set stage = "all"')


def freeze(module: nn.Module, port: Port | None, config: Any) -> None:
    """All but the tables of tokens."""
    tables = _tables(module, port, config)
    for parameter in module.parameters():
        parameter.requires_grad_(any(parameter is table for table in tables))


def keep_others(loaded: Loaded, ids: Collection[int]) -> str:
    """Of the tables only these rows learn; what comes back is worth a word.

    The others' gradients are zero, and so is all that AdamW keeps of them: it moves them by nothing.
    """
    kept = torch.zeros(max(ids) + 1, dtype=torch.bool)
    kept[list(ids)] = True
    tables = _tables(loaded.module, loaded.port, getattr(loaded.module, "config", None))
    for table in tables:
        table.register_post_accumulate_grad_hook(lambda table: _clear_others(table, kept))
    learns = len(ids) * sum(table.shape[1] for table in tables)
    return f"{len(ids):,} rows learn, {learns:,} parameters; all else stays as it is"


def _tables(module: Any, port: Port | None, config: Any) -> list[nn.Parameter]:
    """Each once, also where the head is tied to the embedding."""
    if port is None:
        reference = module.reference
        found = [reference.get_input_embeddings().weight, reference.get_output_embeddings().weight]
    else:
        named = dict(module.named_parameters())
        found = [named[name] for name in padded_tables(port.weights(config)) if name in named]
    return list({id(table): table for table in found}.values())


@torch.no_grad()
def _clear_others(table: Tensor, kept: Tensor) -> None:
    """Of the part of the table that this process holds."""
    assert table.grad is not None
    rows = held(table)[0]
    own = torch.zeros(rows.stop - rows.start, dtype=torch.bool)
    part = kept[rows.start : min(rows.stop, len(kept))]
    own[: len(part)] = part
    gradient = local(table.grad)
    gradient[~own.to(gradient.device)] = 0.0
