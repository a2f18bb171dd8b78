"""Ids become the text that the trainer makes of them; where bytes are tokens, the text they came from."""

from typing import Any

SUBJECT = "tokenizer"
LIMITS = {
    "text": 0,  # texts that come back otherwise than with the trainer
    "lost": 0,  # texts that don't come back whole, though nothing in the pipeline may change them
}


def applies(metric: str, ours: dict[str, Any]) -> bool:
    """Whether the tokenizer promises it."""
    return metric != "lost" or bool(ours["promised/all"])


def probe(side: Any, inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """text/TEXT -> what comes back of the trainer's ids; lost/TEXT -> whether that is another text."""
    found: dict[str, Any] = {"promised/all": side.lossless}
    for name, ids in inputs["ids"].items():
        found[f"text/{name}"] = None if ids is None else side.decode(ids)
        found[f"lost/{name}"] = ids is not None and found[f"text/{name}"] != inputs["texts"][name]
    return found


def measure(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    metrics = [metric for metric in LIMITS if applies(metric, ours)]
    return {metric: float(_counted(metric, ours, theirs)) for metric in metrics}


def _counted(metric: str, ours: dict[str, Any], theirs: dict[str, Any]) -> int:
    keys = [key for key in ours if key.startswith(f"{metric}/")]
    return sum(theirs[key] if metric == "lost" else theirs[key] != ours[key] for key in keys)
