"""How does a row become ids, and which of them are targets?"""

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
    return Sample(row.place, chat.ids, chat.learn, context=chat.context)


def _text(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    text = row.value.get("text")
    if not isinstance(text, str):
        raise PtwError(f"a text row needs `text`, a string; this row has {short(text)}")
    ids = np.array(tokenizer.text_ids(text), dtype=np.int32)
    if len(ids) < 2 or not text:
        raise PtwError("the text is empty, so there is nothing to learn; drop the row")
    return Sample(row.place, ids, np.arange(len(ids)) > 0)


def events_of(row: Row) -> list[str]:
    """The items of an event row, the oldest first; PtwError without its place."""
    items = row.value.get("items")
    if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
        raise PtwError(f"an event row needs `items`, a list of item ids; this row has {short(items)}")
    return [str(item) for item in items]


def _event(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    items = events_of(row)
    kept = items[: max(len(items) - dataset.leave_out, 0)]
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = np.array(bos + tokenizer.item_ids(kept), dtype=np.int32)
    return Sample(row.place, ids, np.arange(len(ids)) > 0, unit=tokenizer.item_length)


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
