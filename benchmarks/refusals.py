"""How often does the gate refuse a right port? Acceptances of every port, from many seeds.

Each is kept as it ends, in results/refusals.jsonl, with the versions and the commit: a run goes on where one
ended, and an environment with another transformers adds its own.
`python -m benchmarks.refusals [SEED]... [PORT]...`
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import git

from benchmarks.report import RESULTS, Figure, publish, version
from ptw.verify.choose import choose
from ptw.verify.gate import run_gates
from ptw.verify.reports.report import SubjectReport

ROOT = Path(__file__).parents[1]
KEPT = RESULTS / "refusals.jsonl"
SEEDS = range(1, 21)
Row = dict[str, str | int | bool | float]


def main(seeds: Sequence[int], ports: Sequence[str]) -> None:
    there = known_families()
    for seed in seeds:
        known = {row["port"] for row in rows() if row["seed"] == seed and is_of_this(row)}
        names = [name for name in choose(ROOT, ports) if name in there and name not in known]
        if names:
            report = run_gates(ROOT, names, level="acceptance", seed=seed)
            with KEPT.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row(port, seed)) + "\n" for port in report.ports)
            print(f"seed {seed}: {report.summary}", file=sys.stderr, flush=True)
    about = "acceptances of ports that are right: of each as many as seeds were drawn, in each environment"
    publish("refusals", about, list(figures()))


def known_families() -> set[str]:
    """An older transformers may lack some."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def row(port: SubjectReport, seed: int) -> Row:
    failed = [entry for entry in port.measured if not entry.passed]
    said = [f"{entry.verifier} {entry.metric} {entry.value:.3g} {entry.case}" for entry in failed]
    return {
        **{name: version(name) for name in ("transformers", "torch")},
        "commit": git.Repo(ROOT).head.commit.hexsha[:12],
        "port": port.name,
        "seed": seed,
        "passed": port.passed,
        "cases": port.cases,
        "said": "; ".join([*said, *port.failures])[:500],
    }


def rows() -> list[Row]:
    return [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []


def is_of_this(row: Row) -> bool:
    return all(row[name] == version(name) for name in ("transformers", "torch"))


def figures() -> Iterator[Figure]:
    for name in sorted({str(row["transformers"]) for row in rows()}):
        own = [row for row in rows() if row["transformers"] == name]
        cases = sum(int(row["cases"]) for row in own)
        where = f"transformers {name}, {len({row['port'] for row in own})} ports"
        yield Figure(f"{where}: acceptances, of {cases} cases", len(own))
        yield Figure(f"{where}: refusals", sum(not row["passed"] for row in own), want=0)


if __name__ == "__main__":
    given = sys.argv[1:]
    seeds = [int(word) for word in given if word.isdigit()]
    main(seeds or SEEDS, [word for word in given if not word.isdigit()])
