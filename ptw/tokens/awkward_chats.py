"""Which chats show that two chat templates, or what renders them, differ? A fixed list, made by code."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ptw.tokens.chat import Message

CONTENTS = (
    "Hi 12",
    "",
    " ",
    "\n",
    " leading and trailing \n\n",
    "two\n\n\nlines\r\n\ttab",
    "café cafe\u0301 你好 👩\u200d👩\u200d👧 שלום",
    "<b>&amp; \"quotes\" 'single' {{ 7 * 7 }} {% raw %} \\n \\u00e9",
    "<think>\nhm\n</think>\n\nYes.",
    "<|im_end|> </s> <|end|> <|endoftext|> [/INST]",
)
TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": 'Finds "films" & <series>, naïvely',
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "what to look for"},
                    "limit": {"type": "integer", "enum": [1, 5, 10]},
                },
                "required": ["query"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object"}}},
)
CALL: dict[str, Any] = {
    "type": "function",
    "id": "call_01",
    "function": {"name": "search", "arguments": {"query": 'é "x"', "limit": 5}},
}


@dataclass(frozen=True)
class AwkwardChat:
    """What a template is given; `prompt` asks for what generation starts from."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    prompt: bool = False
    options: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))


def chats(switches: Sequence[Mapping[str, bool]] = ({},)) -> dict[str, AwkwardChat]:
    """Name -> chat; `switches` are the ways in which the template can be asked for a generation prompt."""
    found: dict[str, AwkwardChat] = {}
    for name, messages, tools in _conversations():
        found[name] = AwkwardChat(messages, tools)
        for options in switches:
            said = "".join(f", {key} {str(value).lower()}" for key, value in options.items())
            found[f"{name}, prompt{said}"] = AwkwardChat(messages, tools, prompt=True, options=options)
    return found


def _conversations() -> Iterator[tuple[str, list[Message], Sequence[Mapping[str, Any]] | None]]:
    hello, answer = _user("Hello?"), _assistant("Yes.")
    system: Message = {"role": "system", "content": "Be brief."}
    for number, content in enumerate(CONTENTS):
        yield f"content {number}", [_user(content), _assistant(content)], None
        yield f"system {number}", [{"role": "system", "content": content}, hello], None
    yield "one question", [hello], None
    yield "one answer", [answer], None
    yield "system alone", [system], None
    yield "many turns", [system, *[hello, answer] * 4, hello], None
    yield "user twice", [hello, hello, answer], None
    yield "assistant twice", [hello, answer, answer], None
    yield "thinking, then more", [hello, _assistant("<think>\na\n</think>\n\nb"), hello, answer], None
    yield "reasoning", [hello, answer | {"reasoning_content": "because\n"}, hello], None
    called = [hello, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    result: Message = {
        "role": "tool",
        "tool_call_id": "call_01",
        "name": "search",
        "content": '{"found": ["é"]}',
    }
    yield "tools", [system, hello, answer], TOOLS
    yield "tools without system", [hello], TOOLS
    yield "one tool", [hello], TOOLS[:1]
    yield "tool call", called, TOOLS
    yield "tool calls with words", [hello, answer | {"tool_calls": [CALL, CALL]}], TOOLS
    yield "tool result", [*called, result, _assistant("Found é.")], TOOLS
    yield "two tool results", [*called, result, result], TOOLS
    yield "tool result without tools", [*called, result], None


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
