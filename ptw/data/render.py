"""How does a row become ids, and which of them are targets?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ptw.data.labelled import render_labelled, render_rated
from ptw.data.messages import messages_of, require_all, short, tools_of
from ptw.data.pair import render_texts
from ptw.data.preference import render_pair
from ptw.data.prompt import render_prompt
from ptw.data.sample import Sample
from ptw.data.turns import render_chat
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.events import Event, items_of
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry


def render(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    """The row's ids, rendered once. Only an event row of which `leave_out` leaves nothing has no target.

    PtwError names the row: not of the dataset's format, refused by the template, a mask that can't be proven.
    """
    if row.fault is not None:
        raise row.fault
    try:
        if dataset.format != "event":
            row = replace(row, value=tokenizer.items.spelt(row.value))
        sample = _RENDER[dataset.format](row, dataset, tokenizer)
    except PtwError as error:
        raise PtwError(f"{row.place}: {error}") from error
    if sample.ids.size and int(sample.ids.max()) >= tokenizer.size:
        raise PtwError(
            f"{row.place}: id {sample.ids.max()} is outside tokenizer {tokenizer.name} of {tokenizer.size}"
        )
    return sample


def _chat(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    messages = messages_of(row.value.get("messages"))
    tools = tools_of(row.value.get("tools"))
    if not any(message["role"] == "assistant" for message in messages):
        raise PtwError(
            'no assistant turn, so there is nothing to learn; drop the row, or use format = "text"'
        )
    chat = render_chat(tokenizer, messages, tools)
    require_all(messages, tools, chat.text)
    return Sample(row.place, chat.ids, chat.learn, context=chat.context, unsaid=chat.unsaid)


def _text(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    text = row.value.get("text")
    if not isinstance(text, str):
        raise PtwError(f"a text row needs `text`, a string; this row has {short(text)}")
    ids = np.array(tokenizer.text_ids(text), dtype=np.int32)
    if len(ids) < 2 or not text:
        raise PtwError("the text is empty, so there is nothing to learn; drop the row")
    return Sample(row.place, ids, np.arange(len(ids)) > 0)


def _event(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    items = items_of(row.value)
    kept = tokenizer.events(items, row.value, max(len(items) - dataset.leave_out, 0))
    return sequence(row.place, tokenizer, kept)


def sequence(place: str, tokenizer: Tokenizer, events: Sequence[Event]) -> Sample:
    """Events one after the other. What fields say before an item is given, and no target by default."""
    begun = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = np.array([*begun, *(id_ for event in events for id_ in event.ids)], dtype=np.int32)
    learn = ~np.isin(ids, tokenizer.unlearnt_ids) & (np.arange(len(ids)) > 0)
    return Sample(place, ids, learn, events=tuple(len(event.ids) for event in events))


_RENDER = {
    "chat": _chat,
    "text": _text,
    "event": _event,
    "preference": render_pair,
    "prompt": render_prompt,
    "rated": render_rated,
    "labelled": render_labelled,
    "pair": render_texts,
}
