"""Every token has one id on all sides, and the added and special ones are found alike."""

from typing import Any

SUBJECT = "tokenizer"
LIMITS = {
    "tokens": 0,  # tokens that are missing, are more, or have another id
    "added": 0,  # added tokens that are missing, are more, or are found in texts by other rules
    "named": 0,  # of bos_token and its like, those that are another token
}


def probe(side: Any, inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """METRIC/TOKEN -> its id, its rules, or which token it is."""
    found = {f"tokens/{token}": id_ for token, id_ in side.vocabulary.items()}
    found |= {f"added/{token}": str(rules) for token, rules in side.added.items()}
    return found | {f"named/{name}": token for name, token in side.named.items()}


def measure(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """A file alone has no place for bos_token and its like."""
    other = [key.partition("/")[0] for key in {key for key, _ in ours.items() ^ theirs.items()}]
    return {
        metric: float(other.count(metric)) for metric in LIMITS if metric != "named" or _has(metric, theirs)
    }


def applies(metric: str, ours: dict[str, Any]) -> bool:
    """Whether the tokenizer has any."""
    return _has(metric, ours)


def _has(metric: str, said: dict[str, Any]) -> bool:
    return any(key.startswith(f"{metric}/") for key in said)
