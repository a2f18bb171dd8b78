"""What did the gate say, in a log without tables? A line a failure; GitHub shows it at the port's file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> int:
    """0 when the report says passed, else 1."""
    report = json.loads(Path(sys.argv[1]).read_text())
    for port in report["ports"]:
        verdict = "passed" if port["passed"] else "FAILED"
        print(f"{port['port']}: {verdict}, {port['cases']} cases, {len(port['refused'])} refused")
        for line in failures(port):
            mark = f"::error file=models/{port['port']}.py::" if os.environ.get("GITHUB_ACTIONS") else "  "
            print(mark + line)
        for line in port["refused"]:
            print(f"  refused, so not verified: {line}")
    for line in report["failures"]:
        print(line)
    for line in report["not_enforced"]:
        print(f"not enforced on this machine: {line}")
    return 0 if report["passed"] else 1


def failures(port: dict[str, Any]) -> Iterator[str]:
    """Each on one line: a log's annotation ends where its line does."""
    for entry in port["measured"]:
        if not entry["passed"]:
            yield (
                f"{entry['verifier']} {entry['metric']} is {entry['value']}, the limit {entry['limit']} "
                f"(case {entry['case']})"
            )
    for text in port["failures"]:
        yield " | ".join(text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
