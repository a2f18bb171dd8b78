"""How good is the gate? Ports with one mistake each that it rejects, and which verifier sees what."""

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Figure, publish
from ptw.verify.mutants.mutate import run_mutants
from ptw.verify.mutants.report import MutantReport

ROOT = Path(__file__).parents[1]
WANTED = 400  # mutants that count


def main() -> None:
    report = run_mutants(ROOT, progress=lambda step: print(step, file=sys.stderr), full=True)
    about = (
        "ports with one mistake each, made by operators over the accepted ports' syntax trees and by hand; "
        "killed by the practice cases or by one acceptance, of those that any draw, two further ones among "
        "them, tells from the reference; and by each verifier, how many it kills and how many only it kills"
    )
    publish("mutants", about, [*scores(report), *by_verifier(report)])
    if not report.passed:
        sys.exit("the gate lets mutants pass; `ptw verify --mutants` names them")


def scores(report: MutantReport) -> Iterator[Figure]:
    killed, missed = len(report.of("killed")), len(report.of("missed"))
    yield Figure("mutants killed, of those that differ", report.score, want=1.0, better="more")
    yield Figure("mutants that differ", killed + missed, want=WANTED, better="more")
    yield Figure(
        "mutants killed by the practice cases", sum(fate.draw == "practice" for _, fate in report.mutants)
    )
    yield Figure("mutants missed", missed, want=0)
    yield Figure("mutants that no draw tells from the reference", len(report.of("survived")))
    yield Figure("mutants that can't be imported", len(report.of("broken")))
    for port in dict.fromkeys(mutant.port for mutant, _ in report.mutants):
        yield Figure(f"{port}: mutants killed", sum(mutant.port == port for mutant, _ in report.of("killed")))


def by_verifier(report: MutantReport) -> Iterator[Figure]:
    for verifier, kinds in report.table().items():
        yield Figure(f"{verifier}: mutants killed", sum(kills for kills, _ in kinds.values()))
        yield Figure(f"{verifier}: mutants that only it kills", sum(only for _, only in kinds.values()))
        for kind, (kills, only) in sorted(kinds.items()):
            yield Figure(f"{verifier}, {kind}: killed (and by it alone)", f"{kills} ({only})")


if __name__ == "__main__":
    main()
