"""How good is the gate? Ports with one mistake each that it rejects, and which verifier sees what.

`python -m benchmarks.mutants PORT...` takes other ports, `all` every one; `--full-table` asks every verifier
of every mutant, and writes mutants.md. A run that was ended goes on where it was.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report import RESULTS, Figure, publish
from ptw.verify.mutants.mutate import run_mutants
from ptw.verify.mutants.report import MutantReport

ROOT = Path(__file__).parents[1]
WANTED = 400  # mutants that count
# a feature each: two RoPEs and windows, experts, sinks, parallel blocks, a latent attention
PORTS = ("gemma3_text", "gpt_neox", "gpt_oss", "llama", "minicpm3", "qwen3", "qwen3_moe")


def main(ports: Sequence[str], full: bool) -> None:
    report = run_mutants(ROOT, ports, progress=lambda step: print(step, file=sys.stderr), full=full)
    if full:
        (RESULTS / "mutants.md").write_text(by_class(report), encoding="utf-8")
    about = (
        f"{', '.join(ports) or 'all ports'} with one mistake each, made by operators over the accepted "
        "ports' syntax trees and by hand; killed by the practice cases or by one acceptance, of those that "
        "any draw, two further ones among them, tells from the reference; --full-table writes which verifier "
        "kills what to mutants.md"
    )
    publish("mutants", about, list(scores(report)))
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


def by_class(report: MutantReport) -> str:
    """Classes of mistakes by verifiers: killed, and in brackets those that only it kills."""
    table = report.table()
    rows = [f"| {' | '.join(['class', *table])} |", "|---" * (len(table) + 1) + "|"]
    for kind in sorted({kind for found in table.values() for kind in found}):
        counts = [found.get(kind, (0, 0)) for found in table.values()]
        cells = [f"{kills} ({alone})" if kills else "" for kills, alone in counts]
        rows.append(f"| {' | '.join([kind, *cells])} |")
    head = "Mutants killed by each verifier, by class of mistake; in brackets those that only it kills.\n\n"
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    asked = [word for word in sys.argv[1:] if not word.startswith("-")]
    main([] if asked == ["all"] else asked or PORTS, "--full-table" in sys.argv)
