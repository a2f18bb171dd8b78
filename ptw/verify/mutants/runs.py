"""What do mutants say to a draw of cases, and what kills them? Cases and answers are made once for all.

The ports themselves are run first, as mutants without a mistake: what the gate says of them must be nothing,
and how long each answer took says in which order mutants are asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from ptw.errors import PtwError
from ptw.verify import answers, judge, refusals, sandbox
from ptw.verify.cases import Family, Reference
from ptw.verify.judge import CaseFiles, Tensors, Verifier
from ptw.verify.mutants import trace
from ptw.verify.mutants.mutation import Mutant
from ptw.verify.mutants.report import MOST_KILLS, Kill

Asks = list[tuple[str, list[str]]]  # case, verifiers
HONEST_SECONDS, SECONDS = 300, 60  # that one process may take
STARTING_SECONDS = 60
POLL_SECONDS = 0.05
NOTHING = 1e-3  # seconds of a probe that has nothing to say to a case


@dataclass(frozen=True)
class Verdict:
    """What was found of a mutant in one round."""

    kills: tuple[Kill, ...] = ()
    refused: tuple[str, ...] = ()  # cases that it refuses and the port does not
    differs: float = 0.0  # the largest relative difference of an answer from the port's own
    broken: str = ""


class Runner:
    """Of one draw: cases and answers in `folder`, for as long as it lasts."""

    def __init__(
        self,
        folder: Path,
        families: Sequence[Family],
        ports: Mapping[str, Path],
        verifiers: Sequence[Verifier],
    ) -> None:
        self.folder, self.ports, self.verifiers = folder, ports, list(verifiers)
        self.families = {family.model_type: family for family in families}
        self.costs: dict[str, dict[tuple[str, str], float]] = {}  # port -> (case, verifier) -> seconds
        self.rounds = 0
        self._known: tuple[str, dict[str, tuple[Tensors, Tensors]]] = ("", {})
        for family in families:
            if family.error:
                raise PtwError(f"{family.model_type}: no cases could be drawn: {family.error}")

    def ask_reference(self, reference: Reference, cache: Path, *, keeps: bool) -> None:
        """Run the ports themselves, ask the reference, and hold the ports to it."""
        honest = {port: self._honest(port) for port in self.ports}
        names = [verifier.name for verifier in self.verifiers]
        tasks = [
            _task(f"{port}@{case}", f"honest-{port}", port, [(case, names)])
            for port in self.ports
            for case in self.families[port].names
        ]
        for name, written in self._round(tasks, HONEST_SECONDS):
            port, _, case = name.partition("@")
            self.costs.setdefault(port, {}).update(_costs(case, written / case))
            (self.folder / "honest" / port).mkdir(parents=True, exist_ok=True)
            for path in list(written.iterdir()):
                path.rename(self.folder / "honest" / port / path.name)
        files = [self._files(port, case) for port in self.ports for case in self.families[port].names]
        for one in files:  # a mutant may answer what the port refuses: the reference is asked all the same
            if (one.ours[0] / "refused").exists():
                save_file({}, one.ours[0] / "trace.safetensors")
        sources = [verifier.file for verifier in self.verifiers]
        answers.ask(files, sources, reference, cache, reads=True, keeps=keeps)
        for port, mutant in honest.items():
            kills = [kill for case in self.families[port].names for kill in self._of_port(mutant, case)]
            if kills:
                said = "\n".join(
                    f"  {kill.verifier} {kill.metric} {kill.case}: {kill.said}" for kill in kills[:5]
                )
                raise PtwError(f"{port}: the gate rejects the port itself, so it has no mutants yet:\n{said}")

    def order(self, port: str) -> list[tuple[float, str, str]]:
        """(seconds so far, case, verifier): of each verifier the cheapest case, then of each the next.

        What one verifier alone can see is so seen early, whatever the others cost.
        """
        asked: Counter[str] = Counter()
        ranked = []
        for (case, verifier), seconds in sorted(self.costs[port].items(), key=lambda entry: entry[1]):
            asked[verifier] += seconds > NOTHING
            ranked.append((asked[verifier], seconds, case, verifier))
        spent, found = 0.0, []
        for _, seconds, case, verifier in sorted(ranked):
            spent += seconds
            found.append((spent, case, verifier))
        return found

    def hold(self, asked: Sequence[tuple[Mutant, Asks]]) -> Iterator[tuple[Mutant, Verdict]]:
        """Each mutant to what it is asked, as the answers come; those of one port stand together."""
        mutants = {mutant.name: (mutant, asks) for mutant, asks in asked}
        for mutant in (mutant for mutant, _ in asked):
            _write(self._room / mutant.name, mutant)
        tasks = [_task(mutant.name, mutant.name, mutant.port, asks) for mutant, asks in asked]
        for name, written in self._round(tasks, SECONDS):
            mutant, asks = mutants[name]
            yield mutant, self._verdict(mutant, asks, written)
            shutil.rmtree(written)

    def _verdict(self, mutant: Mutant, asks: Asks, written: Path) -> Verdict:
        if (written / trace.BROKEN).exists():
            return Verdict(broken=(written / trace.BROKEN).read_text())
        found = Verdict()
        for case, names in asks:
            files = replace(self._files(mutant.port, case), ours=(written / case,))
            one = self._case(mutant, files, names)
            seen = {(kill.verifier, kill.metric) for kill in found.kills}
            new = tuple(kill for kill in one.kills if (kill.verifier, kill.metric) not in seen)
            kills = (*found.kills, *new)[:MOST_KILLS]
            found = Verdict(kills, (*found.refused, *one.refused), max(found.differs, one.differs))
        return found

    def _case(self, mutant: Mutant, case: CaseFiles, names: Sequence[str]) -> Verdict:
        folder = case.ours[0]
        if not folder.is_dir():
            return Verdict((Kill("process", "ended", case.name),))
        if (folder / "refused").exists():
            try:
                refusals.rightful(case, (folder / "refused").read_text(errors="replace"))
            except PtwError as error:
                return Verdict((Kill("refusal", "error", case.name, str(error)),))
            own = self.folder / "honest" / mutant.port / case.name / "refused"
            return Verdict(refused=() if own.exists() else (case.name,))
        errors = json.loads(folder.with_name(folder.name + trace.ERRORS).read_text())
        if refusals.is_wanted(case):  # the reference has no answer to it
            return Verdict() if errors else Verdict((Kill("refusal", "taken", case.name),))
        theirs, honest = self._answers(mutant.port, case.name)
        kills = [Kill(name, "error", case.name, said) for name, said in errors.items()]
        if set(errors) >= set(names):
            return Verdict(tuple(kills))
        try:
            ours = judge.port_said(folder)
        except PtwError as error:
            return Verdict((*kills, Kill("judge", "error", case.name, str(error))))
        source = torch.frombuffer(bytearray(mutant.text.encode()), dtype=torch.uint8)
        kills += self._measured(ours | {"/source": source}, theirs, case.name, set(names) - set(errors))
        return Verdict(tuple(kills), differs=_difference(ours, honest))

    def _measured(self, ours: Tensors, theirs: Tensors, case: str, names: set[str]) -> Iterator[Kill]:
        for verifier in (verifier for verifier in self.verifiers if verifier.name in names):
            own, other = (judge.of_verifier(said, verifier.name) for said in (ours, theirs))
            named = (
                {f"{verifier.name}/{key}": value for key, value in said.items()} for said in (own, other)
            )
            try:
                judge.compare_shapes(*named)
            except PtwError as error:
                yield Kill("judge", "error", case, str(error))
                continue
            try:
                found = judge.measure(verifier, own, other)
            except PtwError as error:
                yield Kill(verifier.name, "error", case, str(error))
                continue
            for metric, value in found.items():
                if not value <= verifier.limits[metric]:
                    yield Kill(verifier.name, metric, case, f"{value:.3g}")

    def _of_port(self, mutant: Mutant, case: str) -> tuple[Kill, ...]:
        names = [verifier.name for verifier in self.verifiers]
        return self._case(mutant, self._files(mutant.port, case), names).kills

    def _answers(self, port: str, case: str) -> tuple[Tensors, Tensors]:
        """The reference's, and the port's own; kept for one port at a time."""
        if self._known[0] != port:
            self._known = (port, {})
        known = self._known[1]
        if case not in known:
            files = self._files(port, case)
            known[case] = (judge.reference_said(files), judge.port_said(files.ours[0]))
        return known[case]

    def _files(self, port: str, case: str) -> CaseFiles:
        family, written = self.families[port], self.folder / "answers" / port
        written.mkdir(parents=True, exist_ok=True)
        return CaseFiles(
            name=case,
            given=family.given / case,
            drawn=family.folder / "drawn" / f"{case}.json",
            ours=(self.folder / "honest" / port / case,),
            answer=written / f"{case}.safetensors",
            reopened=written / f"{case}.reopened.safetensors",
            source=self.ports[port],
        )

    @property
    def _room(self) -> Path:
        return self.folder / "mutants"

    def _honest(self, port: str) -> Mutant:
        mutant = Mutant(port, f"honest-{port}", "none", "none", 0, "", "", self.ports[port].read_text())
        _write(self._room / mutant.name, mutant)
        return mutant

    def _round(self, tasks: Sequence[dict[str, object]], seconds: int) -> Iterator[tuple[str, Path]]:
        """Run them apart; name and folder of each as it is done."""
        self.rounds += 1
        gate, output = (self.folder / kind / str(self.rounds) for kind in ("gates", "outputs"))
        verifiers = self.folder / "verifiers"
        for folder in (gate, output, verifiers):
            folder.mkdir(parents=True, exist_ok=True)
        for verifier in self.verifiers:
            shutil.copyfile(verifier.file, verifiers / f"{verifier.name}.py")
        (gate / trace.WORK).write_text(json.dumps({"seconds": seconds, "tasks": list(tasks)}))
        inputs = {"mutants": self._room, "verifiers": verifiers, "gate": gate}
        inputs |= {f"cases-{port}": family.given for port, family in self.families.items()}
        said: list[str] = []
        cores = os.cpu_count() or 1
        limits = sandbox.Limits(seconds=STARTING_SECONDS + len(tasks) * seconds // cores + seconds)

        def run() -> None:
            with contextlib.suppress(FileNotFoundError):  # what has been judged is removed meanwhile
                said.append(
                    sandbox.run_apart("ptw.verify.mutants.trace", inputs, output, limits, cores).error
                )

        thread = threading.Thread(target=run)
        thread.start()
        done: set[str] = set()
        try:
            while len(done) < len(tasks):
                alive = thread.is_alive()
                names = (path.name for path in output.iterdir() if path.name[0] != ".")
                new = sorted(set(names) - done)
                for name in new:
                    done.add(name)
                    yield name, output / name
                if not new and not alive:
                    break
                time.sleep(0 if new else POLL_SECONDS)
        finally:
            (gate / trace.STOP).touch()
            thread.join()
        if len(done) < len(tasks):
            raise PtwError(f"mutants: their process {''.join(said) or 'ended too early'}")


def _task(name: str, room: str, port: str, asks: Asks) -> dict[str, object]:
    return {"name": name, "room": room, "port": port, "asks": asks}


def _write(room: Path, mutant: Mutant) -> None:
    (room / "models").mkdir(parents=True, exist_ok=True)
    (room / "models" / f"{mutant.port}.py").write_text(mutant.text)


def _costs(case: str, written: Path) -> dict[tuple[str, str], float]:
    with contextlib.suppress(FileNotFoundError):
        seconds = json.loads(written.with_name(written.name + trace.SECONDS).read_text())
        return {(case, verifier): float(taken) for verifier, taken in seconds.items()}
    return {}


def _difference(ours: Tensors, honest: Tensors) -> float:
    """The largest of any answer; numbers of another shape or dtype are wholly other.

    Texts and lines, which are no numbers, name places in the port's text: they say nothing here.
    """
    worst = 0.0
    for name, tensor in ours.items():
        other = honest.get(name)
        if other is None or not tensor.is_floating_point():
            continue
        if tensor.shape != other.shape or tensor.dtype != other.dtype:
            return float("inf")
        if not torch.equal(tensor, other):
            scale = other.double().abs().max().item() or 1.0
            worst = max(worst, (tensor.double() - other.double()).abs().max().item() / scale)
    return worst
