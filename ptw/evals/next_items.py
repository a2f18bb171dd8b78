"""Which items does a model recommend after a history, or in answer to a prompt, of those that are allowed?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.evals.answer import prompt_ids
from ptw.evals.attributes import Items
from ptw.evals.cases import Catalogue, catalogue_of, input_of
from ptw.evals.evaluate import device_of, tokenizer_of, window_of
from ptw.evals.generated import BEAMS, Generator
from ptw.evals.recommend import items_of
from ptw.nn.layout import Layout
from ptw.runs.open import Opened, demand_words
from ptw.tokens.events import Event
from ptw.tokens.fields import AFTER, BEFORE
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import Workspace
from ptw.workspace.problem import hint_of


@dataclass(frozen=True)
class Request:
    """What is asked for. An item has to have one of the values of each key of `where`, none of `without`."""

    history: tuple[str, ...] = ()
    prompt: str | None = None  # in place of a history, of a model of words
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    now: Mapping[str, str] = field(default_factory=dict)  # what is known of the event that is asked for
    again: bool = False  # whether what is in the history may be recommended
    top: int = 10


@dataclass(frozen=True)
class Recommendation:
    item: str
    log_probability: float  # among the items that were allowed


def next_items(workspace: Workspace, opened: Opened, request: Request) -> list[Recommendation]:
    """The best first. PtwError for an item, key or value that there is not, and where nothing is allowed."""
    demand_words(opened)
    tokenizer = tokenizer_of(opened)
    catalogue = catalogue_of(tokenizer)
    allowed_I = allowed(catalogue, items_of(workspace, opened, catalogue), request)
    ids = _ids(opened, tokenizer, request)
    if not tokenizer.vocabularies:
        return _scored(opened, tokenizer, catalogue, ids, allowed_I, request.top)
    generator = Generator(opened.loaded.module, tokenizer, max(BEAMS, 2 * request.top))
    rows_BW, scores_BW = generator.likeliest([ids], allowed_I[None])
    found = zip(rows_BW[0].tolist(), scores_BW[0].tolist(), strict=True)
    return [Recommendation(catalogue.names[row], score) for row, score in found if row >= 0][: request.top]


def allowed(catalogue: Catalogue, items: Items | None, request: Request) -> Tensor:
    """(I,) which items may be recommended, by their numbers."""
    allowed_I = torch.ones(len(catalogue.names), dtype=torch.bool)
    for wanted, keys in ((True, request.where), (False, request.without)):
        for key, values in keys.items():
            if items is None:
                raise PtwError(f"{key}: no file of items is known for this model, so nothing has attributes")
            own = items.of(key)
            known = {text for texts in own for text in texts}
            for value in values:
                if value not in known:
                    raise PtwError(
                        f"{key} = {value}: no item has it; {hint_of(value, sorted(known), 'values')}"
                    )
            allowed_I &= torch.tensor([bool(set(values) & set(texts)) == wanted for texts in own])
    if not request.again:
        allowed_I[[number for item in request.history if (number := catalogue.get(item)) is not None]] = False
    if not allowed_I.any():
        raise PtwError("no item is left to recommend: the filters exclude each other, or everything")
    return allowed_I


def _ids(opened: Opened, tokenizer: Tokenizer, request: Request) -> list[int]:
    """What the model reads: the prompt, or the newest of the history that fit its window."""
    if request.prompt is not None:
        return prompt_ids(opened, tokenizer, request.prompt)
    if tokenizer.bos_id is None and not request.history:
        raise PtwError("the history is empty: name at least one item")
    *before, asked = _events(opened.name, tokenizer, request)
    return input_of("the history", tokenizer, before, asked, window_of(opened)).ids.tolist()


def _events(name: str, tokenizer: Tokenizer, request: Request) -> list[Event]:
    """Those of the history, whose fields are not known, and the one that is asked for, whose item is not."""
    fields = tokenizer.fields
    early, late = fields.keys(BEFORE), fields.keys(AFTER)
    for key in request.now:
        if key not in early:
            why = "it only once they are over" if key in late else "no such field"
            hint = hint_of(key, early, "fields that a request brings")
            raise PtwError(f"--now {key}: events of {name} have {why}; {hint}")
    now = {key: fields.parsed(key, text) for key, text in request.now.items()}
    values = {key: [*([None] * len(request.history)), now.get(key)] for key in (*early, *late)}
    return tokenizer.events([*request.history, None], values)


@torch.no_grad()
def _scored(
    opened: Opened, tokenizer: Tokenizer, catalogue: Catalogue, ids: list[int], allowed_I: Tensor, top: int
) -> list[Recommendation]:
    """Of a model with a token for each item: the softmax over those that are allowed."""
    module, device = opened.loaded.module, device_of(opened)
    hidden_BTD = module(torch.tensor([ids], device=device), Layout.of_documents([[len(ids)]], device=device))
    logits_V = module.head().logits(hidden_BTD[0, -1]).float().cpu()  # type: ignore[operator]
    logits_I = logits_V[tokenizer.item_ids(catalogue.names)].masked_fill(~allowed_I, -torch.inf)
    best = logits_I.log_softmax(-1).topk(min(top, int(allowed_I.sum())))
    found = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [Recommendation(catalogue.names[number], score) for number, score in found]
