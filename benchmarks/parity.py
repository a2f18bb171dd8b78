"""How far are the ports from their references in exact arithmetic, and do weights survive the round trip?"""

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Figure, publish
from ptw.verify.gate import Level, run_gates
from ptw.verify.reports.report import SubjectReport

ROOT = Path(__file__).parents[1]
LEVELS: tuple[Level, ...] = ("practice", "acceptance")


def main() -> None:
    found: dict[str, list[SubjectReport]] = {}
    for level in LEVELS:
        report = run_gates(ROOT, level=level)
        if not report.passed:
            sys.exit(f"{level}: the ports do not pass; `ptw verify` says where")
        for port in report.ports:
            found.setdefault(port.name, []).append(port)
    figures = [figure for name, reports in found.items() for figure in worst(name, reports)]
    about = (
        "the worst over all positions of all cases, plain and stressed, the practice cases and those of an "
        "acceptance, of logits, packing and decoding; every other limit of `ptw verify` held too"
    )
    publish("parity", about, figures)


def worst(name: str, reports: list[SubjectReport]) -> Iterator[Figure]:
    measured = [entry for report in reports for entry in report.measured]
    relative = [entry.value for entry in measured if entry.metric == "relative"]
    weights = [e.value for e in measured if e.metric in ("missing", "left_over", "changed", "export_logits")]
    yield Figure(f"{name}: cases", sum(report.cases for report in reports))
    yield Figure(f"{name}: relative error in exact arithmetic", max(relative), want=1e-10)
    yield Figure(f"{name}: weights missing, left over or changed by the round trip", max(weights), want=0)


if __name__ == "__main__":
    main()
