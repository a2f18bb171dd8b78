"""Every text has the ids that the trainer gives it, alone and with what stands around a text."""

from typing import Any

SUBJECT = "tokenizer"
LIMITS = {
    "ids": 0,  # texts with other ids
    "around": 0,  # texts with other ids where special tokens are added
}


def probe(side: Any, inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """METRIC/TEXT -> ids, of each side."""
    found: dict[str, Any] = {}
    for name, text in inputs["texts"].items():
        found[f"ids/{name}"] = side.encode(text)
        found[f"around/{name}"] = side.encode(text, special=True)
    return found


def measure(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    other = [key.partition("/")[0] for key in ours if theirs[key] != ours[key]]
    return {metric: float(other.count(metric)) for metric in LIMITS}
