"""How does a text or chat with a label become a document, and what may a label be?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from ptw.data.messages import messages_of, require_all, short, tools_of
from ptw.data.sample import Label, Sample
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

KEYS = ("label", "labels", "number")
HINT = (
    "a labelled row has `text` or `messages`, and one of `label` (a name), `labels` (a list of names) and "
    "`number` (a number, or an object of names and numbers)"
)


def render_labelled(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    """A text or a chat, and what is learnt is its label, after the last id."""
    label = label_of(row.value)
    return _judged(row, input_ids(row.value, tokenizer), label)


def render_rated(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    """A chat, and what is learnt is its rating, after the last id."""
    ids = _chat_ids(row.value, tokenizer)
    rating = row.value.get("rating")
    if not _is_number(rating):
        raise PtwError(f"a rated row needs `rating`, a number; this row has {short(rating)}")
    return _judged(row, ids, float(rating))


def input_ids(values: Mapping[str, Any], tokenizer: Tokenizer) -> list[int]:
    """The ids of what a labelled row says, without its label: all that a model of labels reads."""
    if ("text" in values) == ("messages" in values):
        raise PtwError(f"it has {'both' if 'text' in values else 'neither'} of `text` and `messages`; {HINT}")
    if "messages" in values:
        return _chat_ids(values, tokenizer)
    text = values["text"]
    if not isinstance(text, str) or not text.strip():
        raise PtwError(f"`text` is {short(text)}: it must be a text that is not empty; {HINT}")
    return tokenizer.text_ids(text)


def label_of(values: Mapping[str, Any]) -> Label:
    """PtwError: none, several, or none that can be."""
    given = [key for key in KEYS if values.get(key) is not None]
    if len(given) != 1:
        raise PtwError(f"it has {' and '.join(f'`{key}`' for key in given) or 'no label'}; {HINT}")
    key, value = given[0], values[given[0]]
    if key == "label" and _is_name(value):
        return str(value)
    if key == "labels" and isinstance(value, list) and all(map(_is_name, value)):
        return tuple(dict.fromkeys(map(str, value)))
    if key == "number" and _is_number(value):
        return float(value)
    if key == "number" and isinstance(value, dict) and value and all(map(_is_number, value.values())):
        return {name: float(number) for name, number in value.items()}
    raise PtwError(f"`{key}` is {short(value)}; {HINT}")


def _chat_ids(values: Mapping[str, Any], tokenizer: Tokenizer) -> list[int]:
    messages, tools = messages_of(values.get("messages")), tools_of(values.get("tools"))
    ids = tokenizer.chat(messages, tools)
    require_all(messages, tools, tokenizer.template.text(messages, tools))
    return ids


def _judged(row: Row, ids: list[int], label: Label) -> Sample:
    """A document that is cut keeps its last id, behind which it is judged."""
    if len(ids) < 2:
        raise PtwError("it is a single token, and the tokenizer begins and ends no text; drop the row")
    learn = np.arange(len(ids)) == len(ids) - 1
    return Sample(row.place, np.array(ids, np.int32), learn, label=label, keeps_ends=True)


def _is_name(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
