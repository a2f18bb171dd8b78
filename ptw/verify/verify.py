"""What is to be verified, and what of it is known already? The gate does the rest.

Imports nothing heavy before something has to be run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ptw.runs.record import RunRecord
from ptw.verify import cases, changed, choose, sandbox, walls
from ptw.verify.cases import Reference
from ptw.verify.phases import Phases, Progress
from ptw.verify.reports.machine import machine, versions
from ptw.verify.reports.report import Report
from ptw.verify.tokenizers.compare import compare, tokenizer_places
from ptw.verify.verdicts import Verdict, Verdicts, refuse_tracked
from ptw.workspace import rooms

Level = Literal["practice", "acceptance"]
PRACTICE_SEED = 0
UNRUN = "could not be run"


@dataclass(frozen=True)
class Request:
    """`names`: model types, models, tokenizers or runs of the workspace; none means all that is declared.

    An acceptance draws its own seed.
    """

    names: Sequence[str] = ()
    level: Level = "practice"
    seed: int | None = None
    changed_since: str | None = None
    fresh: bool = False  # verdicts that were kept don't count
    only: Sequence[str] = ()  # verifiers to ask while working on a port; nothing of it is kept
    traced: bool = False  # every port is traced for heat maps, not only one that fails
    tokenizers: bool = False  # these only


def verify(root: Path, request: Request, progress: Progress = lambda step: None) -> Report:
    """PtwError for a name that nothing bears and for what git can't say; the report says what ports do."""
    start = time.monotonic()
    if request.seed is None:
        seed = PRACTICE_SEED if request.level == "practice" else secrets.randbits(48)
        request = dataclasses.replace(request, seed=seed)
    found = choose.chosen(root, request.names, tokenizers_only=request.tokenizers)
    chosen = found.ports if _about(root, request.only, "port") or not request.only else {}
    compared: tuple[str | RunRecord, ...] = (*found.tokenizers, *found.runs)
    change = None
    if request.changed_since is not None:
        places = {name: tokenizer_places(root, name) for name in found.tokenizers}
        change = changed.since(root, request.changed_since, chosen, places)
        chosen = {name: file for name, file in chosen.items() if name in change.ports}
        compared = (*change.tokenizers, *found.runs)
    refuse_tracked(root)
    looked = round(time.monotonic() - start, 2)
    report = _verify_ports(root, chosen, request, progress)
    asked = _about(root, request.only, "tokenizer")
    phases = Phases(progress)
    if compared and (asked or not request.only):
        verdicts = None if request.fresh else _verdicts(root, request)
        tokenizers = compare(root, compared, request.level, report.seed, asked, verdicts, phases)
        report = dataclasses.replace(report, tokenizers=tokenizers)
    return dataclasses.replace(
        report,
        enforced=walls.enforced(sandbox.namespaces() is not None, report.not_enforced) if chosen else (),
        versions=versions(),
        machine=machine(),
        seconds=(("looking up verdicts", looked), *report.seconds, *phases.seconds),
        change=change,
        time=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        only=tuple(request.only),
    )


def _verify_ports(root: Path, chosen: Mapping[str, Path], request: Request, progress: Progress) -> Report:
    """Those that no kept verdict speaks of are run."""
    with contextlib.closing(Reference()) as reference:
        if chosen and (request.level != "practice" or cases.none_are_kept(cases.cache_folder(root))):
            reference.start()  # it is needed whatever is known: it imports transformers meanwhile
        verdicts = _verdicts(root, request)
        kept: dict[str, Verdict] = {}
        for name, file in chosen.items() if not request.fresh else ():
            found = verdicts.find(name, file) if verdicts else None
            if found is not None and (found.report.heat or not request.traced):
                kept[name] = found
        rest = [name for name in chosen if name not in kept]
        before = {name: verdicts.place(name, chosen[name]) for name in rest} if verdicts else {}
        report = _run(root, rest, request, progress, reference) if rest else _nothing_to_run(request)
    # what this machine could not run now it may run another time
    if before and not any(UNRUN in entry for entry in report.not_enforced):
        _keep(root, request, report, before, chosen)
    missing = [entry for verdict in kept.values() for entry in verdict.not_enforced]
    reports = {port.name: port for port in report.ports} | {
        name: verdict.report for name, verdict in kept.items()
    }
    return dataclasses.replace(
        report,
        ports=tuple(reports[name] for name in chosen if name in reports),
        not_enforced=tuple(dict.fromkeys([*report.not_enforced, *missing])),
    )


def _about(root: Path, only: Sequence[str], subject: str) -> list[str]:
    """Of the verifiers that are asked alone those of this subject; an unknown one is the gate's to refuse."""
    files = rooms.files(root, "verifiers")
    subjects = {
        name: getattr(rooms.load(files[name]), "SUBJECT", "port") if name in files else "port"
        for name in only
    }
    return [name for name in only if subjects[name] == subject]


def _verdicts(root: Path, request: Request) -> Verdicts | None:
    if request.level != "practice" or request.only:
        return None
    seed = PRACTICE_SEED if request.seed is None else request.seed
    return Verdicts(root, rooms.files(root, "verifiers"), request.level, seed, "cpu")


def _keep(
    root: Path, request: Request, report: Report, before: Mapping[str, Path], chosen: Mapping[str, Path]
) -> None:
    """Verdicts on what is still as it was: text that was written meanwhile has not been verified."""
    verdicts = _verdicts(root, request)
    assert verdicts is not None
    for port in report.ports:
        place = verdicts.place(port.name, chosen[port.name])
        if place == before[port.name]:
            verdicts.keep(place, port, report.not_enforced)


def _run(
    root: Path, names: Sequence[str], request: Request, progress: Progress, reference: Reference
) -> Report:
    seed = PRACTICE_SEED if request.seed is None else request.seed
    if not cases.are_kept(names, seed, cases.cache_folder(root)):
        reference.start()  # it imports transformers while this process imports torch
    from ptw.verify.gate import run_gates

    asked = (root, names, request.level, request.seed, progress, reference)
    return run_gates(*asked, traced=request.traced, only=_about(root, request.only, "port"))


def _nothing_to_run(request: Request) -> Report:
    return Report(request.level, request.seed or PRACTICE_SEED, ())
