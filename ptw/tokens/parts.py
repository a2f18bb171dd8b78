"""Is what a message says a list of parts, and does a chat template write such a list?"""

from collections.abc import Callable
from typing import Any

from ptw.errors import PtwError

Message = dict[str, Any]


def texts_of(content: object) -> list[str] | None:
    """The texts of `[{"type": "text", "text": "Hi"}, ...]`; None: it is not that, or a part is no text."""
    if not isinstance(content, list) or not content:
        return None
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    return texts if len(texts) == len(content) else None


def in_parts(message: Message) -> Message:
    return message | {"content": [{"type": "text", "text": message["content"]}]}


def writes_parts(probe: list[Message], render: Callable[[list[Message]], str]) -> bool:
    """Whether a template writes the texts of parts. Some write Python's name for the list, some nothing."""
    try:
        text = render([in_parts(message) for message in probe])
    except Exception:  # a template is foreign code, and may refuse a list
        return False
    said = [message["content"] for message in probe]
    return all(
        part in text and not any(f"{quote}{part}{quote}" in text for quote in ("'", '"')) for part in said
    )


def as_string(message: Message, at: int, texts: list[str]) -> Message:
    """For a template that writes no parts of its role. PtwError: several parts have no one string."""
    if len(texts) > 1:
        raise PtwError(
            f"message {at}: `content` is a list of {len(texts)} parts, and the chat template writes none of "
            f"the {message['role']}'s; join their texts to one string, or use a `chat_template` that writes "
            "parts"
        )
    return message | {"content": texts[0]}
