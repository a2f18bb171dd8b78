"""Every chat is written as for training, character by character, and has the ids that it has there."""

from typing import Any

SUBJECT = "tokenizer"
LIMITS = {
    "text": 0,  # chats that are written otherwise
    "ids": 0,  # chats with other ids
}


def probe(side: Any, inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """METRIC/CHAT -> the template's text, or its ids; nothing of a side that has no templates."""
    found: dict[str, Any] = {}
    for name, chat in inputs["chats"].items() if side.has_templates else ():
        found[f"text/{name}"] = side.chat(chat)
        found[f"ids/{name}"] = side.chat_ids(chat)
    return found


def measure(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    if not theirs:
        return {}
    other = [key.partition("/")[0] for key in ours if theirs[key] != ours[key]]
    return {metric: float(other.count(metric)) for metric in LIMITS}
