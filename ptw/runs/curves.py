"""Which curves has a run: by what, of which figure, said how?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from ptw.runs import lines
from ptw.runs.figures import GIGABYTE, having, own_figures
from ptw.runs.record import EVENTS, METRICS, RunRecord

By = Literal["step", "tokens", "seconds"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Kind:
    """A figure of a training step: one key of its line, or the first over the second; read how?"""

    title: str
    keys: tuple[str, ...]
    text: Callable[[float], str]

    def value(self, line: Mapping[str, Any]) -> float:
        over, *under = (float(line[key]) for key in self.keys)
        return over / under[0] if under else over


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def percent(value: float) -> str:
    return f"{100 * value:.3g}%"


def gigabytes(value: float) -> str:
    return f"{value / GIGABYTE:.3g} GB"


LOSS = Kind("loss", ("loss",), short)
SPEED = Kind("tokens/s", ("tokens", "seconds"), short)
TRAINED = (
    LOSS,
    Kind("learning rate", ("learning_rate",), short),
    Kind("gradient norm", ("gradient_norm",), short),
    SPEED,
    Kind("MFU", ("mfu",), percent),
    Kind("packing", ("packing",), percent),
    Kind("waiting for data", ("feed_seconds", "seconds"), percent),
    Kind("memory", ("memory_bytes",), gigabytes),
)


@dataclass(frozen=True)
class Measured:
    """What a run wrote down: training steps, held-out figures, and the steps after which it went on."""

    steps: Sequence[Mapping[str, Any]]
    held_out: Sequence[Mapping[str, Any]]
    resumed: Sequence[int]

    @classmethod
    def of(cls, record: RunRecord) -> "Measured":
        found = lines.read(record.folder / METRICS)[0]
        starts = [event["start"][1] for event in lines.read(record.folder / EVENTS)[0] if "start" in event]
        return cls(
            steps=[line for line in found if line.get("kind") == "train"],
            held_out=[line for line in found if line.get("kind") == "eval"],
            resumed=sorted({step for step in starts if step}),
        )

    @property
    def kinds(self) -> list[Kind]:
        """The figures of every run, then those that its recipe says."""
        own = dict.fromkeys(key for line in self.steps for key in own_figures(line))
        return [*TRAINED, *(Kind(key.replace("_", " "), (key,), short) for key in own)]

    @property
    def held_out_keys(self) -> list[str]:
        """In the order in which they were first measured."""
        numbers = (key for line in self.held_out for key, value in line.items() if is_number(value))
        return [key for key in dict.fromkeys(numbers) if key != "step"]

    def trained(self, kind: Kind, by: By = "step") -> list[Point]:
        """The points of the steps that have this figure."""
        places = self._places(by)
        known = having(self.steps, *kind.keys)
        return [(places[line["step"]], float(kind.value(line))) for line in known]

    def measured(self, key: str, by: By = "step") -> list[Point]:
        """The points of a held-out figure."""
        places = self._places(by)
        known = [line for line in self.held_out if is_number(line.get(key)) and line["step"] in places]
        return [(places[line["step"]], float(line[key])) for line in known]

    def _places(self, by: By) -> dict[int, float]:
        """Where on the x axis each step stands: after so many steps, tokens or seconds of training."""
        if by == "step":
            return {line["step"]: float(line["step"]) for line in [*self.steps, *self.held_out]}
        numbers = [0, *(line["step"] for line in self.steps)]
        amounts = [float(line.get(by) or 0) for line in self.steps]
        return dict(zip(numbers, accumulate(amounts, initial=0.0), strict=True))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
