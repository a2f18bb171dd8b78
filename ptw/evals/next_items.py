"""Which items come next for somebody: after a history or a prompt, under the filters of a request?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.evals.answer import prompt_ids
from ptw.evals.asked import scores_of
from ptw.evals.attributes import Items, read_items
from ptw.evals.cases import Catalogue, catalogue_of, input_of
from ptw.evals.classes import Classes
from ptw.evals.evaluate import device_of, tokenizer_of, window_of
from ptw.evals.filters import Filters, filtered
from ptw.evals.generated import BEAMS, Generator
from ptw.evals.later import later_of
from ptw.evals.recommend import items_of
from ptw.nn.layout import Layout
from ptw.runs.open import Opened, demand_words
from ptw.tokens.events import Event
from ptw.tokens.events import items_of as items_in
from ptw.tokens.fields import AFTER, BEFORE
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import Workspace
from ptw.workspace.problem import hint_of

Likeliest = Callable[[Tensor, int], Iterator[tuple[int, float]]]
WIDER = 5  # beams for each item that is asked for: filters leave fewer of them something to say
NAMED_BY = ("title", "name")  # keys of an item that people know it by


@dataclass(frozen=True)
class Request:
    """What is asked for. `member` is the `id` of a row of the events that the run learnt from."""

    history: tuple[str, ...] = ()
    member: str | None = None  # in place of a history
    prompt: str | None = None  # in place of a history, of a model of words
    now: Mapping[str, str] = field(default_factory=dict)  # what is known of the event that is asked for
    filters: Filters = field(default_factory=Filters)
    top: int = 10
    new: float = 0.0  # the share of the list for items that came after the run


@dataclass(frozen=True)
class Recommendation:
    item: str
    log_probability: float  # of its codes among all tokens; of a head over items, among those allowed
    title: str | None = None  # what people call it, where the file of items says so


@dataclass(frozen=True)
class KeptOut:
    """What would stand among the first without filters: at which place, and what each filter says."""

    item: str
    place: int  # from 1
    reasons: tuple[str, ...]
    title: str | None = None


@dataclass(frozen=True)
class Found:
    recommended: tuple[Recommendation, ...]  # the best first
    kept_out: tuple[KeptOut, ...] = ()


def next_items(workspace: Workspace, opened: Opened, request: Request, why: bool = False) -> Found:
    """`why`: also what the best would be without filters, and which of these these took away.

    PtwError for an item, member, key or value that there is not, and where nothing is allowed.
    """
    member = request.member
    row = {"items": [*request.history]} if member is None else row_of(workspace, opened, member)
    catalogue, items, likeliest = _ranker(workspace, opened, request, row)
    kept = filtered(catalogue, items, request.filters, items_in(row))
    found = tuple(
        Recommendation(catalogue.names[number], score, title(items, number))
        for number, score in likeliest(kept.allowed_I, request.top)
    )
    if not why:
        return Found(found)
    freely = likeliest(torch.ones_like(kept.allowed_I), request.top)
    kept_out = (
        KeptOut(catalogue.names[number], place, kept.out[number], title(items, number))
        for place, (number, _) in enumerate(freely, 1)
        if number in kept.out
    )
    return Found(found, tuple(kept_out))


def _ranker(
    workspace: Workspace, opened: Opened, request: Request, row: Mapping[str, Any]
) -> tuple[Catalogue, Items | None, Likeliest]:
    """Over which items, what is known of them, and what gives the likeliest of those that are allowed."""
    classes = Classes.stored(opened.loaded.hf_config)
    if classes is not None:
        catalogue = Catalogue(classes.names)
        file = opened.plan["settings"].get("catalogue") if opened.plan else None
        items = read_items(workspace.root, (file,), catalogue) if file else None
        return catalogue, items, partial(_best, scores_of(workspace, opened, request.prompt))
    demand_words(opened)
    tokenizer = tokenizer_of(opened)
    catalogue = catalogue_of(tokenizer)
    items, ids = items_of(workspace, opened, catalogue), _ids(opened, tokenizer, request, row)
    if tokenizer.vocabularies:
        return catalogue, items, partial(_generated, opened, tokenizer, ids, request.new)
    return catalogue, items, partial(_best, _scores(opened, tokenizer, catalogue, ids))


def title(items: Items | None, number: int) -> str | None:
    """What people call an item; None where the file of items, or its row, does not say."""
    known = {} if items is None else items.values
    named = (known[key][number] for key in NAMED_BY if key in known)
    return next((values[0] for values in named if values), None)


def row_of(workspace: Workspace, opened: Opened, member: str) -> Mapping[str, Any]:
    """The row with this `id`, with the events that were left out of training too."""
    entry = workspace.datasets.get(opened.dataset or "")
    events = [share.dataset for share in entry.parts if share.dataset.format == "event"] if entry else []
    if not events:
        raise PtwError(
            f"member {member!r}: {opened.name} did not learn from a dataset of events that workspace.toml "
            "has, so it knows no members; give the items"
        )
    for dataset in events:
        for row in rows(workspace.root, dataset.source):
            if str(row.value.get("id")) == member:
                return row.value
    names = " or ".join(f"{dataset.name} ({', '.join(dataset.source)})" for dataset in events)
    raise PtwError(f"member {member!r}: no row of dataset {names} has this `id`")


def _ids(opened: Opened, tokenizer: Tokenizer, request: Request, row: Mapping[str, Any]) -> list[int]:
    """What the model reads: the prompt, or the newest events that fit its window."""
    if request.prompt is not None:
        return prompt_ids(opened, tokenizer, request.prompt)
    if tokenizer.bos_id is None and not row["items"]:
        raise PtwError("the history is empty: name at least one item")
    if unknown := tokenizer.unknown_items(items_in(row)):
        raise PtwError(f"item {unknown[0]!r} is none of those that {opened.name} knows")
    *before, asked = _events(opened.name, tokenizer, row, request.now)
    return input_of("the history", tokenizer, before, asked, window_of(opened)).ids.tolist()


def _events(name: str, tokenizer: Tokenizer, row: Mapping[str, Any], now: Mapping[str, str]) -> list[Event]:
    """Those of the history, and the one that is asked for, of which only `now` is known."""
    fields, items = tokenizer.fields, items_in(row)
    early, late = fields.keys(BEFORE), fields.keys(AFTER)
    for key in now:
        if key not in early:
            why = "it only once they are over" if key in late else "no such field"
            hint = hint_of(key, early, "fields that a request brings")
            raise PtwError(f"--now {key}: events of {name} have {why}; {hint}")
    asked = {key: fields.parsed(key, text) for key, text in now.items()}
    known = {key: row[key] if key in row else [None] * len(items) for key in (*early, *late)}
    values = {key: [*column, asked.get(key)] for key, column in known.items()}
    try:
        return tokenizer.events([*items, None], values)
    except PtwError as error:
        given = ", ".join(f"{key}={text}" for key, text in now.items())
        raise PtwError(f"--now {given}, of event {len(items) + 1}: {error}" if now else str(error)) from error


def _generated(
    opened: Opened, tokenizer: Tokenizer, ids: Sequence[int], new: float, allowed_I: Tensor, top: int
) -> Iterator[tuple[int, float]]:
    """Over semantic IDs, whose catalogue is in the order of their rows: numbers and log-probabilities."""
    width, later = max(BEAMS, WIDER * top), later_of(opened, new)
    generator = Generator(opened.loaded.module, tokenizer, width, later=later)
    rows_BW, scores_BW = generator.likeliest([ids], allowed_I[None])
    found = zip(rows_BW[0].tolist()[:top], scores_BW[0].tolist(), strict=False)
    return ((row, score) for row, score in found if row >= 0)


def _best(scores_I: Tensor, allowed_I: Tensor, top: int) -> Iterator[tuple[int, float]]:
    """The softmax over those that are allowed."""
    best = scores_I.masked_fill(~allowed_I, -torch.inf).log_softmax(-1).topk(min(top, int(allowed_I.sum())))
    return zip(best.indices.tolist(), best.values.tolist(), strict=True)


@torch.no_grad()
def _scores(opened: Opened, tokenizer: Tokenizer, catalogue: Catalogue, ids: Sequence[int]) -> Tensor:
    """(I,) of a model with a token for each item."""
    module, device = opened.loaded.module, device_of(opened)
    hidden_BTD = module(torch.tensor([ids], device=device), Layout.of_documents([[len(ids)]], device=device))
    ids_I = torch.tensor(tokenizer.item_ids(catalogue.names), device=device)
    scores_I: Tensor = module.head().wide_logits(hidden_BTD[0, -1], ids_I)  # type: ignore[operator]
    return scores_I.cpu()
