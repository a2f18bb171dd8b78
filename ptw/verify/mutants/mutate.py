"""Who gates the gate? Ports with one mistake each are run against it; what it lets pass is a hole.

A mutant is killed by the practice cases, or by one acceptance drawn afresh: that is the gate. Those that
neither sees are held to further draws. What only those see is a hole and costs the score; what no draw tells
from the port is listed with its text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptw.verify import cases, closure
from ptw.verify.cases import Reference
from ptw.verify.choose import choose
from ptw.verify.judge import DRAWN, Verifier, read_verifiers
from ptw.verify.mutants.mutation import Mutant, chosen, mutants_of
from ptw.verify.mutants.report import MOST_KILLS, Fate, Kill, MutantReport
from ptw.verify.mutants.runs import Asks, Runner, Verdict
from ptw.verify.sandbox import PACKAGE
from ptw.workspace import rooms

EACH = 60  # mutants of a port that operators make, beside those made by hand
SEED, FURTHER = 1, (2, 3)  # of acceptances: the gate's one draw, and those that look for holes
BUDGETS = (0.5, 3.0, float("inf"))  # seconds that a mutant is asked for, before its answers are looked at
FULL_BUDGET = 4.0  # seconds, where all verifiers are asked of every mutant
PROGRESS = 25  # mutants between two lines
OWN = ("mutants/trace.py", "mutants/mutate.py", "mutants/runs.py")
GATE = (*OWN, "drawing/draw.py", "reference/trace.py", "judge.py", "apart.py", "enter.py")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Draw:
    """Cases that mutants are held to."""

    name: str
    level: str
    seed: int


DRAWS = (
    Draw("practice", "practice", 0),
    Draw("acceptance", "acceptance", SEED),
    *(Draw(f"acceptance {seed}", "acceptance", seed) for seed in FURTHER),
)


def run_mutants(
    root: Path | None,
    names: Sequence[str] = (),
    progress: Progress = lambda step: None,
    *,
    each: int = EACH,
    full: bool = False,
) -> MutantReport:
    """The score of the gate over the mutants of these ports (none: all).

    full: every mutant is asked by every verifier, for the table of who kills what; else the first that kills
    it is enough. PtwError where the gate rejects a port itself. Fates are kept: a run goes on where it ended.
    """
    start = time.monotonic()
    ports = choose(root, names)
    read = read_verifiers(rooms.files(root, "verifiers"))
    verifiers = [verifier for verifier in read if _is_asked(verifier)]
    cache = cases.cache_folder(root)
    fates = _Fates(cache / "mutants", verifiers, ports, full)
    mutants = [mutant for port, file in ports.items() for mutant in made(port, file.read_text(), each)]
    waiting = [mutant for mutant in mutants if not fates.knows(mutant)]
    progress(f"{len(mutants)} mutants of {len(ports)} ports, {len(mutants) - len(waiting)} known from before")
    with tempfile.TemporaryDirectory(prefix="ptw-mutants-") as folder, contextlib.ExitStack() as stack:
        reference = Reference()
        stack.callback(reference.close)
        for draw in DRAWS:
            held = [mutant for mutant in waiting if not fates.knows(mutant) and not fates.past(mutant, draw)]
            concerned = {port: ports[port] for port in dict.fromkeys(mutant.port for mutant in held)}
            if concerned:
                place = Path(folder) / draw.name.replace(" ", "-")
                progress(f"{draw.name}: {len(held)} mutants; drawing cases")
                drawn = cases.draw(list(concerned), draw.level, draw.seed, place / "cases", cache, reference)
                asked = [verifier for verifier in verifiers if draw.level in verifier.levels]
                runner = Runner(place, drawn, concerned, asked)
                runner.ask_reference(reference, cache, keeps=draw.level == "practice")
                _hold(runner, draw, held, fates, progress, full=full)
    return MutantReport(
        tuple((mutant, fates.of(mutant)) for mutant in mutants),
        tuple(verifier.name for verifier in verifiers),
        tuple(verifier.name for verifier in read if verifier not in verifiers),
        tuple(cases.versions()),
        full,
        round(time.monotonic() - start, 1),
    )


def _is_asked(verifier: Verifier) -> bool:
    """Of each case, in one process. One without a probe reads the text, and a mutant's is its operator's."""
    return verifier.workers == 1 and verifier.cases == DRAWN and "probe" in vars(rooms.load(verifier.file))


def made(port: str, text: str, each: int = EACH) -> list[Mutant]:
    """The mutants that a port is held to: all that are made by hand, and so many of the operators'."""
    return chosen(mutants_of(port, text), text, each)


def _hold(
    runner: Runner, draw: Draw, mutants: Sequence[Mutant], fates: _Fates, progress: Progress, *, full: bool
) -> None:
    """Round by round, from what is cheap to what is dear, for those that nothing has killed yet."""
    before = 0.0
    for budget in (FULL_BUDGET, float("inf")) if full else BUDGETS:
        waiting = [mutant for mutant in mutants if not fates.knows(mutant)]
        orders = {port: runner.order(port) for port in {mutant.port for mutant in waiting}}
        asks = {port: _between(order, before, budget) for port, order in orders.items()}
        asked = [(mutant, asks[mutant.port]) for mutant in waiting if asks[mutant.port]]
        for number, (mutant, verdict) in enumerate(runner.hold(asked) if asked else (), start=1):
            fates.learn(mutant, draw, verdict)
            if budget == float("inf") and not fates.knows(mutant):
                fates.survive(mutant, draw)
            if number % PROGRESS == 0 or number == len(asked):
                killed = sum(fates.knows(mutant) for mutant, _ in asked)
                progress(f"{draw.name}: {number} of {len(asked)} asked, {killed} decided")
        before = budget
    for mutant in mutants:  # nothing was left to ask of these in the last round
        if not fates.knows(mutant) and not fates.past(mutant, draw):
            fates.survive(mutant, draw)


def _between(order: Sequence[tuple[float, str, str]], before: float, budget: float) -> Asks:
    """What lies between two sums of seconds, by case."""
    found: dict[str, list[str]] = {}
    for spent, case, verifier in order:
        if before < spent <= budget:
            found.setdefault(case, []).append(verifier)
    return list(found.items())


class _Fates:
    """What has become of each mutant, in memory and, once it is decided or past a draw, on disk."""

    def __init__(
        self, folder: Path, verifiers: Sequence[Verifier], ports: Mapping[str, Path], full: bool
    ) -> None:
        self.folder = folder
        self.found: dict[str, Fate] = {}
        self.suspected: dict[str, Fate] = {}
        files = [PACKAGE / "verify" / name for name in GATE] + [verifier.file for verifier in verifiers]
        self.base = f"{closure.digest(files)}{tuple(cases.versions())}{DRAWS}{full}"
        self.ports = {port: closure.digest([file]) for port, file in ports.items()}  # and what they lean on

    def knows(self, mutant: Mutant) -> bool:
        file = self._file(mutant)
        if mutant.name not in self.found and file.exists():
            fate = _read(file)
            if fate.ending == "survived" and fate.draw != DRAWS[-1].name:
                self.suspected.setdefault(mutant.name, fate)
            else:
                self.found[mutant.name] = fate
        return mutant.name in self.found

    def past(self, mutant: Mutant, draw: Draw) -> bool:
        """Whether nothing of this draw told it from the port."""
        names = ["", *(one.name for one in DRAWS)]
        known = self.suspected.get(mutant.name, Fate("survived"))
        return names.index(known.draw) >= names.index(draw.name)

    def of(self, mutant: Mutant) -> Fate:
        return self.found[mutant.name]

    def learn(self, mutant: Mutant, draw: Draw, verdict: Verdict) -> None:
        """Killed is decided; what else was seen is kept in mind."""
        if verdict.broken:
            self._decide(mutant, Fate("broken", said=verdict.broken))
        elif verdict.kills:
            is_gate = draw in DRAWS[:2]
            kills = verdict.kills[:MOST_KILLS]
            self._decide(mutant, Fate("killed" if is_gate else "missed", draw.name, kills))
        else:
            known = self.suspected.get(mutant.name, Fate("survived"))
            refused = (*known.refused, *(f"{draw.name}: {case}" for case in verdict.refused))
            differs = max(known.differs, verdict.differs)
            self.suspected[mutant.name] = Fate("survived", known.draw, differs=differs, refused=refused)

    def survive(self, mutant: Mutant, draw: Draw) -> None:
        """This draw, and those before it; the last one decides."""
        fate = dataclasses.replace(self.suspected.get(mutant.name, Fate("survived")), draw=draw.name)
        self.suspected[mutant.name] = fate
        if draw == DRAWS[-1]:
            self._decide(mutant, fate)
        else:
            self._write(mutant, fate)

    def _decide(self, mutant: Mutant, fate: Fate) -> None:
        self.found[mutant.name] = fate
        self._write(mutant, fate)

    def _write(self, mutant: Mutant, fate: Fate) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".{mutant.name}"
        aside.write_text(json.dumps(dataclasses.asdict(fate)))
        aside.replace(self._file(mutant))

    def _file(self, mutant: Mutant) -> Path:
        said = hashlib.sha256(f"{self.base}\0{self.ports[mutant.port]}\0{mutant.text}".encode()).hexdigest()
        return self.folder / f"{said}.json"


def _read(file: Path) -> Fate:
    values = json.loads(file.read_text())
    values["kills"] = tuple(Kill(**kill) for kill in values["kills"])
    return Fate(**values | {"refused": tuple(values["refused"])})
