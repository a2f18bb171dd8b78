"""How does a pair of answers, of which one was preferred, become two documents?"""

from itertools import takewhile
from typing import Any

import numpy as np

from ptw.data.messages import messages_of, require_all, short, tools_of
from ptw.data.sample import Sample
from ptw.data.turns import RenderedChat, render_chat
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.chat import Message
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

SIDES = ("chosen", "rejected")


def render_pair(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    """The chat with the chosen answer, then that with the rejected one; only the answers are learnt.

    `prompt`, `chosen` and `rejected` are messages, or strings: a user's, and an assistant's. Without a
    prompt it is what both sides begin with; a prompt that both begin with too is said once. PtwError: not
    such a row, or two answers that are the same.
    """
    chats, asked = _chats(row.value)
    tools = tools_of(row.value.get("tools"))
    sides = [_answered(tokenizer, chat, tools, asked) for chat in chats]
    ids = np.concatenate([side.ids for side in sides])
    learn = np.concatenate([np.concatenate([[False], side.learn[1:]]) for side in sides])
    lengths, unsaid = tuple(len(side.ids) for side in sides), sum(side.unsaid for side in sides)
    return Sample(row.place, ids, learn, lengths, sides[0].context, unsaid)


def _chats(values: dict[str, Any]) -> tuple[list[list[Message]], int]:
    """The chat with each answer, and how many messages of it are the prompt."""
    sides = [_turns(values.get(key), "assistant", key) for key in SIDES]
    if values.get("prompt") is not None:
        prompt = _turns(values["prompt"], "user", "prompt")
        if not all(side[: len(prompt)] == prompt for side in sides):
            sides = [[*prompt, *side] for side in sides]
    chosen, rejected = sides
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    asked = same if values.get("prompt") is None else len(prompt)
    if chosen == rejected:
        raise PtwError("`chosen` and `rejected` are the same, so there is nothing to prefer; drop the row")
    for key, side in zip(SIDES, sides, strict=True):
        if not any(message["role"] == "assistant" for message in side[asked:]):
            raise PtwError(f"`{key}` has no assistant turn of its own")
    return sides, asked


def _turns(value: object, role: str, key: str) -> list[Message]:
    if isinstance(value, str):
        return messages_of([{"role": role, "content": value}])
    try:
        return messages_of(value)
    except PtwError as error:
        hint = "a preference row has `chosen` and `rejected`, and `prompt` unless both begin with it"
        raise PtwError(f"`{key}` is {short(value)}: {error}; {hint}") from error


def _answered(tokenizer: Tokenizer, chat: list[Message], tools: list[Any] | None, asked: int) -> RenderedChat:
    rendered = render_chat(tokenizer, chat, tools, since=asked)
    require_all(chat, tools, rendered.text)
    return rendered
