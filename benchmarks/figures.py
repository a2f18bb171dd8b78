"""Which figures were measured? Those of results/, and no others, on one page: FIGURES.md."""

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import RESULTS, shown

PAGE = Path(__file__).with_name("FIGURES.md")
HEAD = """# Figures

Each table is from one command; machine and versions stand in `results/`. This page is written anew by
`python -m benchmarks.figures`.
"""


def page() -> str:
    """A table a benchmark, in the order of their names."""
    return "\n".join([HEAD, *(text for path in sorted(RESULTS.glob("*.json")) for text in section(path))])


def section(path: Path) -> Iterator[str]:
    kept = json.loads(path.read_text(encoding="utf-8"))
    yield f"## {path.stem}\n\n`{kept['command']}`: {kept['about']}\n"
    yield "| figure | value | want |\n|---|---|---|"
    for figure in kept["figures"]:
        value = f"{shown(figure['value'])} {figure['unit']}".strip()
        sign = "≤" if figure["better"] == "less" else "≥"
        want = "" if figure["want"] is None else f"{sign} {figure['want']:.4g}"
        missed = ", not reached" if figure["reached"] is False else ""
        yield f"| {figure['name']} | {value} | {want}{missed} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
