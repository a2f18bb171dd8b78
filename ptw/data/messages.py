"""Is what a row calls messages a chat, and did the template write all of it?"""

import json
from typing import Any

from ptw.errors import PtwError
from ptw.tokens.chat import Message
from ptw.tokens.parts import texts_of


def messages_of(value: object) -> list[Message]:
    """The row's messages as templates want them: no nulls, arguments of tool calls as objects."""
    if not isinstance(value, list) or not value:
        raise PtwError(
            f"a chat row needs `messages`, a list of objects with role and content; it has {short(value)}"
        )
    messages = []
    for at, message in enumerate(value, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise PtwError(f"message {at} must be an object with a `role`, this is {short(message)}")
        message = {key: part for key, part in message.items() if part is not None}
        if "content" in message:
            message["content"] = _content(message, at)
        if message["role"] == "assistant" and not (message.get("content") or message.get("tool_calls")):
            raise PtwError(
                f"message {at}: the assistant says nothing; give it `content` or `tool_calls`, or drop it"
            )
        if "tool_calls" in message:
            message["tool_calls"] = [_call(call, at) for call in _list(message["tool_calls"], at)]
        messages.append(message)
    return messages


def _content(message: Message, at: int) -> str | list[Any]:
    """A string, or parts of text. Of a tool a list may be anything: its template knows what to make of it."""
    content = message["content"]
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise PtwError(f"message {at}: `content` must be a string, this is {short(content)}")
    if not content and message.get("tool_calls"):
        return ""  # nothing is said beside a call
    # a column of images leaves a null in parts of text, which a template may take for one
    parts = [
        {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else part
        for part in content
    ]
    texts = texts_of(parts)
    if texts is None and message["role"] != "tool":
        raise PtwError(
            f"message {at}: `content` must be a string, or parts of text such as "
            f'{{"type": "text", "text": "Hi"}}, this is {short(content)}; ptw learns no images or sounds'
        )
    return "" if texts is not None and not any(texts) else parts


def _call(call: object, at: int) -> dict[str, Any]:
    """The call with its arguments as an object: `tojson` would quote a string of JSON a second time."""
    if not isinstance(call, dict):
        raise PtwError(f"message {at}: a tool call must be an object, this is {short(call)}")
    if isinstance(call.get("function"), dict):
        return call | {"function": _call(call["function"], at)}
    if not isinstance(call.get("name"), str):
        raise PtwError(f"message {at}: a tool call needs a `name`, this is {short(call)}")
    if isinstance(call.get("arguments"), str):
        return call | {
            "arguments": _parsed(call["arguments"], f"message {at}: `arguments` of {call['name']}")
        }
    return call


def tools_of(value: object) -> list[Any] | None:
    tools = _parsed(value, "`tools`") if isinstance(value, str) else value
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise PtwError(f"`tools` must be a list of objects, this is {short(tools)}")
    return tools


def require_all(messages: list[Message], tools: list[Any] | None, text: str) -> None:
    """Templates drop roles and tools that they don't know without a word; a row that lost a part is wrong."""
    for at, message in enumerate(messages, start=1):
        content = message.get("content", "")
        said = [content] if isinstance(content, str) else texts_of(content) or []
        calls = [call.get("function", call)["name"] for call in message.get("tool_calls", [])]
        for part in said:
            if message["role"] == "assistant":
                part = part.rsplit("</think>", 1)[-1]
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
        raise PtwError(f"message {at}: `tool_calls` must be a list, this is {short(value)}")
    return value


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PtwError(f"{what} must be JSON ({error})") from error


def short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
