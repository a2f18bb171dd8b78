"""Ids become the text that the trainer makes of them; where bytes are tokens, the text they came from."""

from typing import Any

SUBJECT = "tokenizer"
LIMITS = {
    "text": 0,  # texts that come back otherwise than with the trainer
    "lost": 0,  # texts that don't come back whole, though nothing in the pipeline may change them
}


def applies(metric: str, ours: dict[str, Any]) -> bool:
    """Whether the tokenizer promises it."""
    return any(key.startswith(f"{metric}/") for key in ours)


def probe(side: Any, inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """text/TEXT -> what comes back of the trainer's ids; lost/TEXT -> whether that is another text."""
    found: dict[str, Any] = {}
    for name, ids in inputs["ids"].items():
        found[f"text/{name}"] = None if ids is None else side.decode(ids)
        if side.lossless and ids is not None:
            found[f"lost/{name}"] = found[f"text/{name}"] != inputs["texts"][name]
    return found


def measure(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    texts = [key for key in ours if key.startswith("text/")]
    found = {"text": float(sum(theirs[key] != ours[key] for key in texts))}
    if applies("lost", theirs):
        found["lost"] = float(sum(theirs[key] for key in theirs if key.startswith("lost/")))
    return found
