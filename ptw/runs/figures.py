"""How fast and how well filled were some steps, all together?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GIGABYTE = 1e9


@dataclass(frozen=True)
class Figures:
    """Of training steps, over all of their time; None where no step says."""

    tokens_per_second: float | None
    mfu: float | None
    packing: float | None  # which part of what was computed was no padding
    waiting: float | None  # which part of the time the worker that waited most waited for data
    memory_bytes: int | None  # the most of any worker

    @classmethod
    def of(cls, steps: Sequence[Mapping[str, Any]]) -> "Figures":
        """Of lines of metrics.jsonl."""
        memory = [line["memory_bytes"] for line in steps if line.get("memory_bytes") is not None]
        return cls(
            tokens_per_second=_ratio(steps, "tokens", "seconds"),
            mfu=_mean(steps, "mfu"),
            packing=_packing(steps),
            waiting=_ratio(steps, "feed_seconds", "seconds"),
            memory_bytes=max(memory, default=None),
        )

    def texts(self) -> dict[str, str]:
        """For people; a dash for what nobody knows."""
        speed, memory = self.tokens_per_second, self.memory_bytes
        return {
            "tokens/s": "-" if speed is None else f"{speed:,.0f}",
            "MFU": _percent(self.mfu),
            "packed": _percent(self.packing),
            "waits": _percent(self.waiting),
            "memory": "-" if memory is None else f"{memory / GIGABYTE:.2f} GB",
        }


OF_EVERY_RUN = {
    *("kind", "step", "total", "epoch", "tokens", "learnt", "packing", "digest", "labelled"),
    *("refused", "usd"),
    *("loss", "learning_rate", "gradient_norm", "seconds", "feed_seconds"),
    *("flops", "mfu", "memory_bytes", "reserved_bytes"),
}
LEARN = "learn"  # what of a step's time nothing else has
SECONDS = "_seconds"  # what a recipe's figure ends with that says how long something took


def own_figures(line: Mapping[str, Any]) -> dict[str, float]:
    """What a recipe says of a step that no other does: accuracy, reward, how long answers took to draw."""
    found = {key: value for key, value in line.items() if key not in OF_EVERY_RUN}
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}


def times(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Which part of the time went into what, where a recipe says: learning, and what it has clocked."""
    parts = spent(steps)
    totals = {what: sum(seconds) for what, seconds in [(LEARN, parts.pop(LEARN, [])), *parts.items()]}
    total = sum(totals.values())
    return {what: seconds / total for what, seconds in totals.items()} if parts and total else {}


def spent(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The seconds of each step that went into what, in the order of a step: learning is the last."""
    keys = dict.fromkeys(key for line in steps for key in own_figures(line) if key.endswith(SECONDS))
    if not keys:
        return {}
    clocked = {key.removesuffix(SECONDS): [float(line.get(key) or 0) for line in steps] for key in keys}
    return {**clocked, LEARN: [float(line.get("seconds") or 0) for line in steps]}


def having(steps: Sequence[Mapping[str, Any]], *keys: str) -> list[Mapping[str, Any]]:
    """The lines that say something about all of these: older runs and other devices don't."""
    return [line for line in steps if all(line.get(key) is not None for key in keys)]


def _ratio(steps: Sequence[Mapping[str, Any]], over: str, under: str) -> float | None:
    known = having(steps, over, under)
    total = sum(line[under] for line in known)
    return sum(line[over] for line in known) / total if total else None


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Over the time that the steps took."""
    known = having(steps, key, "seconds")
    total = sum(line["seconds"] for line in known)
    return sum(line[key] * line["seconds"] for line in known) / total if total else None


def _packing(steps: Sequence[Mapping[str, Any]]) -> float | None:
    known = [line for line in having(steps, "tokens", "packing") if line["packing"]]
    places = sum(line["tokens"] / line["packing"] for line in known)
    return sum(line["tokens"] for line in known) / places if places else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
