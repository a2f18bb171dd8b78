"""Every part of the pipeline is the trainer's: texts show what it does to them, and there are other texts."""

from typing import Any

SUBJECT = "tokenizer"
LIMITS = {"parts": 0}  # of normaliser, pre-tokeniser, model, post-processor and decoder, those that differ


def probe(side: Any, inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """parts/NAME -> the part as tokenizer.json writes it, the model's by its settings and a digest."""
    return {f"parts/{name}": said for name, said in side.parts.items()}


def measure(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    return {"parts": float(sum(theirs[key] != ours[key] for key in ours))}
