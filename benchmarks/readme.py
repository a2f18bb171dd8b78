"""Which figures does the README show? Those of results/, and no others."""

import json
from pathlib import Path

from benchmarks.report import RESULTS, shown

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->"


def table() -> str:
    """One row a figure, in the order of the results' names."""
    rows = ["| benchmark | figure | value | want |", "|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        for figure in kept["figures"]:
            value = f"{shown(figure['value'])} {figure['unit']}".strip()
            sign = "≤" if figure["better"] == "less" else "≥"
            want = "" if figure["want"] is None else f"{sign} {figure['want']:.4g}"
            rows.append(f"| {path.stem} | {figure['name']} | {value} | {want} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str) -> str:
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
