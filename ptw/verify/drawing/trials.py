"""What does the reference compute for these values? Each is tried once, on one short document.

Imports transformers: runs in the case maker's process only.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.verify.drawing.fields import sources
from ptw.verify.drawing.informative import Weights, generator
from ptw.verify.drawing.routing import Watch
from ptw.verify.reference import hf

Values = dict[str, Any]
Tensors = dict[str, Tensor]

MOVED = 1e-12  # relative: above rounding in fp64, below any effect
LENGTH = 70  # tokens: longer than the window and than the original context of what scales RoPE
BRIEF = 20
STEPS = 3
ENDS = 8  # other ends of the tokens, tried one after the other
DECODED = 1e-9  # relative: far above rounding
HEAVY = 5_000_000  # parameters
TOKENS = 60  # below every vocabulary that is drawn
TIED = 1e-6  # of the spread of a router's scores: closer ones may be decided either way


@dataclass(frozen=True)
class Outcome:
    """What came of it: logits and the checkpoint's tensors, or what the reference said against it."""

    error: str = ""
    failed: Any = None  # the code of the reference's function that failed
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    saved: Tensors = field(default_factory=dict)
    routed: bool = False

    @property
    def runs(self) -> bool:
        return not self.error

    @property
    def complaint(self) -> str:
        """What was said, and the text of the function that failed: they name what is at fault."""
        with contextlib.suppress(OSError):
            return f"{self.error} {inspect.getsource(self.failed) if self.failed else ''}"
        return self.error


class Trials:
    """The reference's outcome for values that were tried, with the same weights wherever shapes allow."""

    def __init__(self, family: Any, seed: int) -> None:
        self.family, self.seed = family, seed
        self.weights = Weights(seed)
        self.outcomes: dict[tuple[str, int], Outcome] = {}
        # no mode in the way of every operation where the family's code never chooses
        self.routes = any("topk" in text for text in sources(family))
        self.quick: bool | None = None  # whether a model may do without initialisation
        self.causals: dict[str, bool] = {}
        self.ids = torch.randint(0, TOKENS, (LENGTH,), generator=generator(seed, "tried"))

    def outcome(self, values: Values, length: int = LENGTH) -> Outcome:
        """Of these values, on the first `length` tokens."""
        said = json.dumps(values, sort_keys=True)
        if (said, length) not in self.outcomes:
            self.outcomes[said, length] = self._run(json.loads(said), self.ids[:length])
        return self.outcomes[said, length]

    def runs(self, values: Values) -> bool:
        return self.outcome(values).runs

    def moves(self, before: Values, after: Values) -> bool:
        """Whether both run and differ in output or in what their checkpoints hold."""
        first, second = self.outcome(before), self.outcome(after)
        return first.runs and second.runs and differ(first, second)

    def moves_briefly(self, before: Values, after: Values) -> bool:
        """The same on a document that is shorter than every bound."""
        first, second = self.outcome(before, BRIEF), self.outcome(after, BRIEF)
        return first.runs and second.runs and differ(first, second)

    def causal(self, values: Values) -> bool:
        """Whether no token's output depends on a later one, as in a decoder."""
        key = json.dumps(values, sort_keys=True)
        if key not in self.causals:
            first = self.outcome(values)
            second = self._with_another_end(json.loads(key)) if first.runs else first
            self.causals[key] = second.runs and _same_beginning(first.logits, second.logits)
        return self.causals[key]

    def _with_another_end(self, values: Values) -> Outcome:
        """On tokens whose second half differs; others are tried where the reference can't run these.

        Two experts that are as good as one another on them, say, are no word about the values.
        """
        for step in range(1, ENDS + 1):
            ids = self.ids.clone()
            ids[LENGTH // 2 :] = (ids[LENGTH // 2 :] + step) % TOKENS
            outcome = self._run(values, ids)
            if outcome.runs:
                break
        return outcome

    def decodes(self, values: Values) -> bool:
        """Whether its steps through a cache give what its forward gives; true where it has no cache.

        A window of 1 token, say, is a slip of some caches: a port can't be right in both.
        """
        whole, model = self.outcome(values).logits, self.model(values)
        if hf.remembers(model):  # keys stay turned as they were: see `decode`
            return True
        try:
            said = hf.stepped(model, self.ids, LENGTH - STEPS)
        except Exception:  # what can't be asked is no case of `decode`
            return True
        expected = whole[LENGTH - STEPS - 1 :]
        return bool((said - expected).norm() <= DECODED * expected.norm())

    def reaches(self, values: Values, length: int) -> bool:
        """Whether it runs on a document of this length."""
        with contextlib.suppress(Exception):
            ids = self.ids.repeat(-(-length // LENGTH))[:length]
            return bool(torch.isfinite(hf.forward(self.model(values), ids)).all())
        return False

    def demand(self, values: Values, name: str) -> None:
        """PtwError if the reference can't run it: too few cases must not look like a pass."""
        if error := self.outcome(values).error:
            raise PtwError(f"the reference can't run the case {name!r}: {error}")

    def takes(self, values: Values) -> bool:
        """Whether the config class does."""
        with contextlib.suppress(Exception):
            self.family(**json.loads(json.dumps(values)))
            return True
        return False

    def is_heavy(self, values: Values) -> bool:
        """Whether a model of these values would take long to try."""
        with contextlib.suppress(Exception), torch.device("meta"):
            return parameters(hf.unfilled(self.family(**values))) > HEAVY
        return False

    def published(self, values: Values) -> Tensors:
        """The checkpoint's tensors as the Hub has them; none where these are the reference's own."""
        saved = self.outcome(values).saved
        found = hf.published(self.model(values), saved)
        return found if found.keys() != saved.keys() else {}

    def model(self, values: Values) -> nn.Module:
        """A model of these values, its weights those of every trial: not to be written to."""
        return self._built(self.family(**json.loads(json.dumps(values))))

    def _built(self, config: Any) -> nn.Module:
        """Not initialised where that makes no difference, which is seen the first time."""
        if not self.quick:
            whole = self.weights.fill(hf.build(config), lambda: hf.build(config))
            if self.quick is None:
                model = self.weights.fill(hf.unfilled(config), lambda: hf.build(config))
                first, second = (hf.forward(one, self.ids) for one in (model, whole))
                self.quick = bool(torch.equal(first, second))
            return whole
        return self.weights.fill(hf.unfilled(config), lambda: hf.build(config))

    def _run(self, values: Values, ids: Tensor) -> Outcome:
        try:
            model = self._built(self.family(**values))
            watch = Watch()
            with watch if self.routes else contextlib.nullcontext():
                logits = hf.forward(model, ids)
            if hf.remembers(model):  # some versions can be asked once only: they can't decode
                decoding: Any = hf.fresh(model)
                for _ in range(2):
                    decoding(ids[None], use_cache=False)
            if not bool(torch.isfinite(logits).all()):
                return Outcome("its logits are not finite")
            if watch.closest < TIED:
                return Outcome("two experts are as good as one another")
            return Outcome("", None, logits, hf.saved_tensors(model), watch.used)
        except Exception as error:  # whatever the reference can't build or run is no case of this family
            return Outcome(f"{type(error).__name__}: {error}", _where(error))


def _same_beginning(first: Tensor, second: Tensor) -> bool:
    seen = first[: LENGTH // 2] - second[: LENGTH // 2]
    return float(seen.norm()) <= MOVED * float(first.norm())


def differ(first: Outcome, second: Outcome) -> bool:
    """In the shape of logits or checkpoint, or by more than rounding."""
    if first.logits.shape != second.logits.shape or shapes(first.saved) != shapes(second.saved):
        return True
    return bool((first.logits - second.logits).norm() > MOVED * first.logits.norm())


def _where(error: Exception) -> Any:
    """The innermost function of a family's own module."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [frame.f_code for frame in frames if ".models." in frame.f_globals.get("__name__", "")]
    return own[-1] if own else None


def shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def parameters(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in unique(model.parameters()))


def unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
