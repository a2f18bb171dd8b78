"""Which steps does a run not take, because their loss is no number or far off, and what happens then?"""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ptw.errors import PtwError
from ptw.runs import record
from ptw.train.feed import Batch, StepRows
from ptw.train.group import Group
from ptw.train.ledger import Ledger
from ptw.train.settings import TrainingSettings

RECENT = 32  # steps that a loss is held against
FEWEST = 16  # of these before any loss is called a spike
FLOOR = 0.01  # of the recent loss: the least spread, where losses hardly differ
TO_SIGMA = 1.4826  # from the median distance to a normal distribution's standard deviation
MOST_IN_A_ROW = 10  # steps left out, then it is no accident
SAMPLES_NAMED = 8

Passes = Sequence[tuple[Any, Batch]]  # this worker's share of the loss, and of what


class Guard:
    """Sees the loss of each step before it is taken. All workers see the same numbers and decide alike.

    A spike lies more than `spike_sigmas` above the median of the steps before it, by their median distance
    from it: robust, for one spike must not hide the next.
    """

    def __init__(self, group: Group, ledger: Ledger, settings: TrainingSettings) -> None:
        self.group = group
        self.ledger = ledger
        self._settings = settings
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._in_a_row = 0
        self._counts = {"nan": 0, "spikes": 0, "skipped": 0}

    @property
    def may_skip(self) -> bool:
        return "skip" in (self._settings.on_nan, self._settings.on_spike)

    def refuses(self, number: int, loss: float, norm: float, step: StepRows, passes: Passes) -> bool:
        """Whether step `number` is left out; PtwError where it ends the run. Both name its samples."""
        if not math.isfinite(loss) or not math.isfinite(norm):
            what, value = ("gradient", norm) if math.isfinite(loss) else ("loss", loss)
            fault, samples = f"the {what} is {value}", self._not_finite(passes)
            policy, kind = str(self._settings.on_nan), "nan"
        elif loss > (bound := self._bound()):
            fault, samples = f"the loss {loss:.4f} is a spike: over {bound:.4f}", step.samples
            policy, kind = self._settings.on_spike, "spikes"
        else:
            self._take(loss)
            return False
        if policy == "ignore":
            self._take(loss)
        self._tell(number, kind, policy, f"step {number}: {fault}, on the samples {_named(samples)}", samples)
        return policy == "skip"

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self._recent), "in_a_row": self._in_a_row, "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recent = deque(state["recent"], RECENT)
        self._in_a_row = state["in_a_row"]
        self._counts = dict(state["counts"])
        self._record()  # what was counted after the checkpoint is counted again

    def _take(self, loss: float) -> None:
        self._recent.append(loss)
        self._in_a_row = 0

    def _bound(self) -> float:
        if len(self._recent) < FEWEST:
            return math.inf
        middle = statistics.median(self._recent)
        distance = statistics.median(abs(loss - middle) for loss in self._recent)
        spread = max(TO_SIGMA * distance, FLOOR * abs(middle))
        # all were 0, as where no answer earned anything: nothing says how large a loss is
        return middle + self._settings.spike_sigmas * spread if spread else math.inf

    def _tell(self, number: int, kind: str, policy: str, text: str, samples: list[str]) -> None:
        self._counts[kind] += 1
        if policy == "skip":
            self._counts["skipped"] += 1
            self._in_a_row += 1
        self._record()
        facts = {"step": number, "fault": kind, "policy": policy, "samples": samples}
        if policy != "stop" and self._in_a_row <= MOST_IN_A_ROW:
            done = "left out" if policy == "skip" else "trained on all the same"
            self.ledger.say(f"{text}: {done}", **facts)
            return
        self.ledger.say(text, **facts)
        many = f"; {MOST_IN_A_ROW} steps before it were left out" if policy == "skip" else ""
        key = "on_nan" if kind == "nan" else "on_spike"
        without = "" if policy == "skip" else f", or go on without them: --resume --set {key}=skip"
        raise PtwError(f"{text}{many}; look at them{without}")

    def _not_finite(self, passes: Passes) -> list[str]:
        """The samples of the passes whose loss is no number; of all, where only the gradient is none."""
        bad = [batch for share, batch in passes if not math.isfinite(share.item())]
        own = [sample for batch in bad for row in batch.rows for sample in row.samples]
        found = [sample for part in self.group.by_batch(own) for sample in part]
        return found or passes[0][1].step.samples

    def _record(self) -> None:
        if self.group.first:
            record.change(self.ledger.folder, faults=dict(self._counts))


def _named(samples: Sequence[str]) -> str:
    more = f" and {len(samples) - SAMPLES_NAMED} more" if len(samples) > SAMPLES_NAMED else ""
    return f"{', '.join(samples[:SAMPLES_NAMED])}{more}"
