"""How does a row become ids, and which of them are targets?"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptw.data.turns import render_chat
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.chat import Message
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry


@dataclass(frozen=True)
class Sample:
    """`learn[i]`: `ids[i]` is a target. `context` counts assistant turns that are context only."""

    id: str
    ids: np.ndarray
    learn: np.ndarray
    context: int = 0


def render(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    """The row's ids, rendered once. Only an event row of which `leave_out` leaves nothing has no target.

    PtwError names the row: not of the dataset's format, refused by the template, a mask that can't be proven.
    """
    if row.fault is not None:
        raise row.fault
    try:
        sample = _RENDER[dataset.format](row, dataset, tokenizer)
    except PtwError as error:
        raise PtwError(f"{row.place}: {error}") from error
    if sample.ids.size and int(sample.ids.max()) >= tokenizer.size:
        raise PtwError(
            f"{row.place}: id {sample.ids.max()} is outside tokenizer {tokenizer.name} of {tokenizer.size}"
        )
    return sample


def _chat(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    messages = _messages(row.value.get("messages"))
    tools = _tools(row.value.get("tools"))
    if not any(message["role"] == "assistant" for message in messages):
        raise PtwError(
            'no assistant turn, so there is nothing to learn; drop the row, or use format = "text"'
        )
    chat = render_chat(tokenizer, messages, tools)
    _require_all(messages, tools, chat.text)
    return Sample(row.place, chat.ids, chat.learn, chat.context)


def _text(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    text = row.value.get("text")
    if not isinstance(text, str):
        raise PtwError(f"a text row needs `text`, a string; this row has {_short(text)}")
    around = [[] if id_ is None else [id_] for id_ in (tokenizer.bos_id, tokenizer.eos_id)]
    ids = np.array([*around[0], *tokenizer.encode(text), *around[1]], dtype=np.int32)
    if len(ids) < 2 or not text:
        raise PtwError("the text is empty, so there is nothing to learn; drop the row")
    return Sample(row.place, ids, np.arange(len(ids)) > 0)


def _event(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    items = row.value.get("items")
    if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
        raise PtwError(f"an event row needs `items`, a list of item ids; this row has {_short(items)}")
    kept = [str(item) for item in items][: max(len(items) - dataset.leave_out, 0)]
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = np.array(bos + tokenizer.item_ids(kept), dtype=np.int32)
    return Sample(row.place, ids, np.arange(len(ids)) > 0)


_RENDER = {"chat": _chat, "text": _text, "event": _event}


def _messages(value: object) -> list[Message]:
    """The row's messages as templates want them: no nulls, arguments of tool calls as objects."""
    if not isinstance(value, list) or not value:
        raise PtwError(
            f"a chat row needs `messages`, a list of objects with role and content; it has {_short(value)}"
        )
    messages = []
    for at, message in enumerate(value, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise PtwError(f"message {at} must be an object with a `role`, this is {_short(message)}")
        message = {key: part for key, part in message.items() if part is not None}
        if not isinstance(message.get("content", ""), str | list):
            raise PtwError(f"message {at}: `content` must be a string, this is {_short(message['content'])}")
        if message["role"] == "assistant" and not (message.get("content") or message.get("tool_calls")):
            raise PtwError(
                f"message {at}: the assistant says nothing; give it `content` or `tool_calls`, or drop it"
            )
        if "tool_calls" in message:
            message["tool_calls"] = [_call(call, at) for call in _list(message["tool_calls"], at)]
        messages.append(message)
    return messages


def _call(call: object, at: int) -> dict[str, Any]:
    """The call with its arguments as an object: `tojson` would quote a string of JSON a second time."""
    if not isinstance(call, dict):
        raise PtwError(f"message {at}: a tool call must be an object, this is {_short(call)}")
    if isinstance(call.get("function"), dict):
        return call | {"function": _call(call["function"], at)}
    if not isinstance(call.get("name"), str):
        raise PtwError(f"message {at}: a tool call needs a `name`, this is {_short(call)}")
    if isinstance(call.get("arguments"), str):
        return call | {
            "arguments": _parsed(call["arguments"], f"message {at}: `arguments` of {call['name']}")
        }
    return call


def _tools(value: object) -> list[Any] | None:
    tools = _parsed(value, "`tools`") if isinstance(value, str) else value
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise PtwError(f"`tools` must be a list of objects, this is {_short(tools)}")
    return tools


def _require_all(messages: list[Message], tools: list[Any] | None, text: str) -> None:
    """Templates drop roles and tools that they don't know without a word; a row that lost a part is wrong."""
    for at, message in enumerate(messages, start=1):
        said = message.get("content", "")
        if isinstance(said, str) and message["role"] == "assistant":
            said = said.rsplit("</think>", 1)[-1]
        calls = [call.get("function", call)["name"] for call in message.get("tool_calls", [])]
        for part in [said] if isinstance(said, str) else []:
            part = part.strip()
            if part not in text and json.dumps(part, ensure_ascii=False)[1:-1] not in text:
                raise PtwError(
                    f"message {at}: the chat template leaves out what the {message['role']} says; "
                    "use a `chat_template` that writes it, or drop the row"
                )
        for call in calls:
            if call not in text:
                raise PtwError(
                    f"message {at}: the chat template leaves out the call of tool {call!r}; "
                    "use a `chat_template` that writes calls, or drop the row"
                )
    for tool in tools or []:
        name = tool.get("function", tool).get("name")
        if name is not None and str(name) not in text:
            raise PtwError(
                f"the chat template leaves out tool {name!r}; use a `chat_template` that writes tools"
            )


def _list(value: object, at: int) -> list[Any]:
    if not isinstance(value, list):
        raise PtwError(f"message {at}: `tool_calls` must be a list, this is {_short(value)}")
    return value


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PtwError(f"{what} must be JSON ({error})") from error


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
