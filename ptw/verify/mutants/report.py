"""How good is the gate? Which mutants it kills, of those that differ from the reference, and who does."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ptw.verify.mutants.mutation import Mutant

if TYPE_CHECKING:
    from rich.console import RenderableType

Ending = Literal["killed", "missed", "survived", "broken"]
SAME = 0.0  # how far the answers of a mutant that survived are from the port's own
MOST_KILLS = 12  # kept of one mutant, one a verifier and metric


@dataclass(frozen=True)
class Kill:
    """What rejects a mutant: a verifier's metric beyond its limit, or `error`; and the case that shows it."""

    verifier: str
    metric: str
    case: str
    said: str = ""


@dataclass(frozen=True)
class Fate:
    """killed: by practice or one acceptance; missed: by further draws only; broken: it can't be imported.

    survived: no draw up to `draw` tells it from the reference. Then `differs` is the largest relative
    difference of any answer, of any kind, from the port's own, and `refused` says that it refuses more than
    the port does.
    """

    ending: Ending
    draw: str = ""
    kills: tuple[Kill, ...] = ()
    differs: float = SAME
    refused: tuple[str, ...] = ()
    said: str = ""

    @property
    def verifiers(self) -> tuple[str, ...]:
        return tuple(sorted({kill.verifier for kill in self.kills}))


@dataclass(frozen=True)
class MutantReport:
    mutants: tuple[tuple[Mutant, Fate], ...]
    verifiers: tuple[str, ...]  # that were asked
    not_asked: tuple[str, ...]  # those that need two processes, or a quiet machine
    versions: tuple[tuple[str, str], ...]
    full: bool  # every verifier was asked of each; else the first that kills one was enough
    seconds: float

    def of(self, *endings: Ending) -> list[tuple[Mutant, Fate]]:
        return [(mutant, fate) for mutant, fate in self.mutants if fate.ending in endings]

    @property
    def score(self) -> float:
        """Killed, of those that any draw tells from the reference; NaN of none."""
        killed, missed = len(self.of("killed")), len(self.of("missed"))
        return killed / (killed + missed) if killed + missed else float("nan")

    @property
    def passed(self) -> bool:
        return self.score == 1.0

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else 1

    def table(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Verifier -> kind of mutant -> how many it kills, and how many only it kills."""
        found: dict[str, dict[str, tuple[int, int]]] = {}
        for mutant, fate in self.of("killed", "missed"):
            for verifier in fate.verifiers:
                kills, only = found.setdefault(verifier, {}).get(mutant.kind, (0, 0))
                alone = fate.verifiers == (verifier,)
                found[verifier][mutant.kind] = (kills + 1, only + alone)
        return dict(sorted(found.items()))

    def as_json(self) -> dict[str, Any]:
        counted = Counter(fate.ending for _, fate in self.mutants)
        return {
            "score": self.score if self.score == self.score else None,
            "passed": self.passed,
            "mutants": len(self.mutants),
            "counted": dict(counted),
            "full": self.full,
            "seconds": self.seconds,
            "versions": dict(self.versions),
            "verifiers": list(self.verifiers),
            "not_asked": list(self.not_asked),
            "table": {
                verifier: {kind: {"kills": kills, "only": only} for kind, (kills, only) in kinds.items()}
                for verifier, kinds in self.table().items()
            },
            "fates": [_as_json(mutant, fate) for mutant, fate in self.mutants],
        }

    def as_text(self) -> RenderableType:
        """The table, then every mutant that was not killed with its text."""
        from rich.console import Group
        from rich.text import Text

        lines: list[RenderableType] = [_ports(self), Text(), _kills(self)]
        for title, entries, style in (
            ("missed by practice and one acceptance, and seen by a further draw", self.of("missed"), "red"),
            ("told from the port by nothing that was asked", _same(self), ""),
            ("not told from the reference, but not the port's own bits", _near(self), "yellow"),
        ):
            if entries:
                lines += [Text(f"\n{len(entries)} {title}:", style=style)]
                lines += [Text(_line(mutant, fate)) for mutant, fate in entries]
        if self.not_asked:
            lines.append(Text(f"\nnot asked of mutants: {', '.join(self.not_asked)}"))
        killed, missed = len(self.of("killed")), len(self.of("missed"))
        verdict = "passed" if self.passed else "FAILED"
        counted = f"{killed} of {killed + missed} mutants killed ({self.score:.1%})"
        return Group(*lines, Text(f"\n{verdict}: {counted}, {self.seconds:.0f} s"))


def _same(report: MutantReport) -> list[tuple[Mutant, Fate]]:
    return [(mutant, fate) for mutant, fate in report.of("survived") if fate.differs == SAME]


def _near(report: MutantReport) -> list[tuple[Mutant, Fate]]:
    return [(mutant, fate) for mutant, fate in report.of("survived") if fate.differs != SAME]


def _line(mutant: Mutant, fate: Fate) -> str:
    before, after = (" ".join(text.split()) for text in (mutant.before, mutant.after))
    more = f" [differs by {fate.differs:.2g}]" if fate.differs != SAME else ""
    more += f" [refuses {len(fate.refused)} cases]" if fate.refused else ""
    more += f" [{fate.draw}: {', '.join(fate.verifiers)}]" if fate.kills else ""
    return f"  {mutant.name} line {mutant.line}: {mutant.operator}: {before!r} -> {after!r}{more}"


def _ports(report: MutantReport) -> RenderableType:
    from rich.table import Table

    endings: Sequence[Ending] = ("killed", "missed", "survived", "broken")
    table = Table("port", "mutants", *endings, "by practice", box=None, header_style="bold")
    for port in dict.fromkeys(mutant.port for mutant, _ in report.mutants):
        fates = [fate for mutant, fate in report.mutants if mutant.port == port]
        counted = Counter(fate.ending for fate in fates)
        practice = sum(fate.draw == "practice" for fate in fates)
        table.add_row(port, str(len(fates)), *(str(counted[ending]) for ending in endings), str(practice))
    return table


def _kills(report: MutantReport) -> RenderableType:
    """Kinds down, verifiers across: killed by it, and in brackets by it alone."""
    from rich.table import Table

    found = report.table()
    table = Table("kind", *found, box=None, header_style="bold")
    for kind in sorted({mutant.kind for mutant, _ in report.mutants}):
        cells = (kinds.get(kind, (0, 0)) for kinds in found.values())
        table.add_row(kind, *(f"{kills} ({only})" if kills else "" for kills, only in cells))
    return table


def _as_json(mutant: Mutant, fate: Fate) -> dict[str, Any]:
    told = {key: value for key, value in dataclasses.asdict(mutant).items() if key != "text"}
    return told | dataclasses.asdict(fate)
