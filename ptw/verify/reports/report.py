"""What did the gate find? Plain data: a person reads it as a table or as a page, a program as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Measured:
    """The worst value of a metric over all cases, and the case that gave it."""

    verifier: str
    metric: str
    value: float
    limit: float
    case: str

    @property
    def passed(self) -> bool:
        return self.value <= self.limit  # so that NaN fails

    @property
    def share(self) -> float:
        """Of the limit: above 1 failed. NaN is above all; of a limit of zero any part is infinite."""
        if math.isnan(self.value):
            return math.inf
        if self.limit <= 0:
            return 0.0 if self.passed else math.inf
        return self.value / self.limit


@dataclass(frozen=True)
class Effect:
    """What changing one field (or a pair, one switching the other on) does to both, relative to the base."""

    field: str
    value: str
    case: str
    reference: float | None  # None: the outputs can't be compared, as with another vocabulary
    port: float | None
    apart: float | None  # relative difference of the two on the changed configuration; None for a refusal
    verdict: Literal["followed", "ignored", "wrong", "refused"]

    def __str__(self) -> str:
        moved = "another shape" if self.reference is None else f"{self.reference:.2g}"
        if self.verdict == "ignored":
            return f"{self.field} = {self.value} is ignored: it moves the reference by {moved}, the port by 0"
        if self.verdict == "wrong":
            port = "another shape" if self.port is None else f"{self.port:.2g}"
            return (
                f"{self.field} = {self.value} has another effect: it moves the reference by {moved}, "
                f"the port by {port}"
            )
        return f"{self.field} = {self.value} is {self.verdict}"


@dataclass(frozen=True)
class Divergence:
    """Where port and reference first part, in the order in which the reference runs; in exact arithmetic."""

    case: str
    changes: tuple[str, ...]  # the fields that the case draws
    module: str  # Hugging Face's name, "" for the whole model
    event: Literal["given", "gives"]  # what first differs: what the module is given, or what it gives
    after: str  # the module that last gave what it should
    position: int  # the first that differs
    positions: int  # so many of `length` differ
    length: int
    relative: float  # at the worst position
    layer: str = ""  # the kind of the layer that it stands in, where the configuration has kinds

    @property
    def culprit(self) -> str:
        """The module whose own arithmetic is wrong: of one that is given the wrong thing, its parent."""
        if self.event == "gives":
            return self.module
        parts = self.module.split(".")
        return ".".join(parts[: -2 if parts[-1].isdigit() else -1])  # a list of blocks computes nothing

    @property
    def place(self) -> str:
        """`layer 1, self_attn.q_norm`"""
        return _place(self.culprit)

    def __str__(self) -> str:
        kind = f" ({self.layer})" if self.layer else ""
        if self.event == "given":
            since = f", after {_within(self.after, self.culprit)}," if self.after else ""
            what = f"what it gives to {_within(self.module, self.culprit)}{since} differs"
        else:
            what = "differs"
        drawn = f"drawn for {', '.join(self.changes)}" if self.changes else "the family's plain configuration"
        return (
            f"{self.place}{kind}: {what} from position {self.position} on ({self.positions} of "
            f"{self.length}, relative {self.relative:.2g}) in case {self.case}, {drawn}"
        )


@dataclass(frozen=True)
class Heat:
    """The relative difference by module (rows, in order of execution) and position (columns)."""

    case: str
    rows: tuple[str, ...]
    starts: tuple[int, ...]  # the first position of each column
    length: int
    values: tuple[tuple[float, ...], ...]  # the worst of a column's positions


@dataclass(frozen=True)
class Note:
    """Something to be said at a line of a file."""

    severity: Literal["error", "warning"]
    file: str
    line: int
    text: str
    title: str = ""
    excerpt: tuple[tuple[int, str], ...] = ()  # the lines around it


@dataclass(frozen=True)
class Audit:
    """What the cases of a family reach: every field and parameter of the reference, moved or shown inert."""

    moved: tuple[tuple[str, str], ...] = ()  # field or parameter, the case that moves it
    inert: tuple[tuple[str, str], ...] = ()  # and why
    holes: tuple[str, ...] = ()  # neither: nobody knows whether a port follows it


@dataclass(frozen=True)
class SubjectReport:
    """Of a port, or of a tokenizer."""

    name: str
    measured: tuple[Measured, ...] = ()
    failures: tuple[str, ...] = ()  # what no metric can say: it crashed, wrote nothing, has no cases
    refused: tuple[str, ...] = ()  # cases that the port refused by name: not a pass of these fields
    cases: int = 0
    by_case: tuple[tuple[str, str, str, float], ...] = ()  # verifier, metric, case, value
    explained: tuple[str, ...] = ()  # what the verifiers say about their failures, in words
    file: str = ""
    effects: tuple[Effect, ...] = ()
    divergence: Divergence | None = None
    heat: Heat | None = None
    notes: tuple[Note, ...] = ()
    audit: Audit = Audit()
    kept: str = ""  # when this verdict was reached, if nothing has changed since
    not_run: tuple[str, ...] = ()  # verifiers and sides that had nothing to be run on, and why
    remarks: tuple[str, ...] = ()  # what is off and fails nothing
    waits: str = ""  # for what there is nothing to verify yet

    @property
    def passed(self) -> bool:
        some = bool(self.measured or self.waits)
        return some and not self.failures and all(entry.passed for entry in self.measured)

    @property
    def worst(self) -> tuple[Measured, ...]:
        """Of each verifier the metric that comes nearest to its limit, or all that are above theirs."""
        found: list[Measured] = []
        for name in dict.fromkeys(entry.verifier for entry in self.measured):
            entries = [entry for entry in self.measured if entry.verifier == name]
            failed = [entry for entry in entries if not entry.passed]
            found += failed or [max(entries, key=lambda entry: entry.share)]
        return tuple(found)

    @property
    def words(self) -> tuple[str, ...]:
        """Why it fails, the first thing to look at first."""
        found = [str(self.divergence)] if self.divergence else []
        found += [str(effect) for effect in self.effects if effect.verdict in ("ignored", "wrong")]
        return (*found, *self.explained, *self.failures)

    @property
    def brief(self) -> tuple[str, ...]:
        """The same for a terminal: of what a verifier says the first only, once a place is known."""
        if self.divergence is None:
            return self.words
        said: dict[str, list[str]] = {}
        for words in self.explained:
            said.setdefault(words.partition(",")[0], []).append(words)
        more = {
            name: f" (and {len(words) - 1} more)" if len(words) > 1 else "" for name, words in said.items()
        }
        first = [words[0] + more[name] for name, words in said.items()]
        known = len(self.words) - len(self.explained) - len(self.failures)
        return (*self.words[:known], *first, *self.failures)


@dataclass(frozen=True)
class Change:
    """What a change touches: the ports to verify for it, and what a reviewer must know of it."""

    since: str
    commit: str
    ports: tuple[str, ...]
    recipes: tuple[str, ...] = ()
    verifiers: tuple[str, ...] = ()
    gate: tuple[Note, ...] = ()  # it changes what judges it
    loosened: tuple[Note, ...] = ()
    tokenizers: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """The names of all that is to be verified for it."""
        return (*self.ports, *self.tokenizers)

    @property
    def notes(self) -> tuple[Note, ...]:
        return (*self.loosened, *self.gate)


@dataclass(frozen=True)
class Report:
    level: str
    seed: int
    ports: tuple[SubjectReport, ...]
    failures: tuple[str, ...] = ()
    not_enforced: tuple[str, ...] = ()  # protections of the sandbox that this machine did not give
    versions: tuple[tuple[str, str], ...] = ()
    seconds: tuple[tuple[str, float], ...] = ()
    enforced: tuple[str, ...] = ()
    machine: tuple[tuple[str, str], ...] = ()
    change: Change | None = None
    time: str = ""
    only: tuple[str, ...] = ()  # the verifiers that were asked, where not all were
    tokenizers: tuple[SubjectReport, ...] = ()

    @property
    def subjects(self) -> tuple[SubjectReport, ...]:
        """All that was verified."""
        return (*self.ports, *self.tokenizers)

    @property
    def passed(self) -> bool:
        """Nothing verified is no pass, unless a change was asked about and touches nothing."""
        untouched = self.change is not None and not self.change.subjects
        some = untouched or any(not subject.waits for subject in self.subjects)
        return some and not self.failures and all(subject.passed for subject in self.subjects)

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else 1

    @property
    def notes(self) -> tuple[Note, ...]:
        own = (note for subject in self.subjects for note in subject.notes)
        return (*own, *(self.change.notes if self.change else ()))

    @property
    def summary(self) -> str:
        took = sum(seconds for _, seconds in self.seconds)
        again = f"--level acceptance --seed {self.seed}" if self.level == "acceptance" else "practice"
        counts = [] if self.tokenizers and not self.ports else [_counted(self.ports, "port", "cases")]
        counts += [_counted(self.tokenizers, "tokenizer", "texts and chats")] if self.tokenizers else []
        verdict = "passed" if self.passed else "FAILED"
        asked = f", only {', '.join(self.only)} asked: no verdict" if self.only else ""
        return f"{verdict}: {', '.join(counts)} ({again}), {took:.1f} s{asked}"

    def as_json(self) -> dict[str, Any]:
        """Plain values; a number that JSON can't say (NaN, infinity) is a string."""
        values: dict[str, Any] = _plain(dataclasses.asdict(self))
        values["passed"] = self.passed
        for subject, found in zip(self.subjects, values["ports"] + values["tokenizers"], strict=True):
            found["passed"], found["words"] = subject.passed, list(subject.words)
            for measured, entry in zip(subject.measured, found["measured"], strict=True):
                entry["passed"] = measured.passed
        dicts = {name: dict(getattr(self, name)) for name in ("versions", "seconds", "machine")}
        return values | dicts | {"notes": _plain([dataclasses.asdict(note) for note in self.notes])}


def _counted(subjects: Sequence[SubjectReport], noun: str, cases: str) -> str:
    found = sum(subject.cases for subject in subjects)
    return f"{len(subjects)} {noun}{'' if len(subjects) == 1 else 's'}, {found} {cases}"


def _place(module: str) -> str:
    parts = module.split(".")
    number = next((at for at, part in enumerate(parts) if part.isdigit()), None)
    if number is None:
        return module or "the model"
    return f"layer {parts[number]}, {'.'.join(parts[number + 1 :])}".removesuffix(", ")


def _within(module: str, parent: str) -> str:
    """The module's name as its parent knows it, or its place where it stands elsewhere."""
    return module.removeprefix(f"{parent}.") if module.startswith(f"{parent}.") else _place(module)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
