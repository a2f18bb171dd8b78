"""Where does a CI show what the gate found? At the lines of the change, and on the run's own page."""

from __future__ import annotations

import hashlib
import html
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST_SUMMARY = 60_000  # characters: GitHub takes a megabyte, a person a page


def main() -> int:
    """0 when the report says passed, else 1."""
    reports = Path(sys.argv[1])
    report = json.loads((reports / "gate.json").read_text(encoding="utf-8"))
    (reports / "code-quality.json").write_text(json.dumps(code_quality(report), indent=1))
    if os.environ.get("GITHUB_ACTIONS"):
        for note in notes(report):
            print(annotation(note))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as stream:
            stream.write(f"<pre>{html.escape(text(report))[:LARGEST_SUMMARY]}</pre>\n")
    return 0 if report["passed"] else 1


def notes(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is to be said at a line. A failing port has one at least."""
    yield from report["notes"]
    for port in [*report["ports"], *report["tokenizers"]]:
        if not port["passed"] and not port["notes"]:
            words = "\n".join(port["words"]) or f"{port['name']} failed"
            yield {"severity": "error", "file": port["file"], "line": 1, "text": words, "title": port["name"]}
    for failure in report["failures"]:
        yield {"severity": "error", "file": "", "line": 1, "text": failure, "title": "ptw verify"}


def annotation(note: dict[str, Any]) -> str:
    """GitHub's workflow command: one line, and nothing in it that begins another."""
    place = {"file": note["file"], "line": note["line"], "title": note["title"]}
    if not inside(note["file"]):  # of ptw's own: no file of the repository
        place = {"title": note["title"]}
    properties = ",".join(f"{name}={escaped(str(value), ':,')}" for name, value in place.items())
    return f"::{note['severity']} {properties}::{escaped(note['text'])}"


def escaped(text: str, more: str = "") -> str:
    """`%` first, or it would be taken for what it escapes."""
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def code_quality(report: dict[str, Any]) -> list[dict[str, Any]]:
    """GitLab's report: each with a fingerprint that a later run gives to the same thing."""
    return [
        {
            "description": f"{note['title']}: {note['text']}",
            "check_name": "ptw verify",
            "fingerprint": hashlib.sha256(f"{note['file']}\0{note['title']}".encode()).hexdigest(),
            "severity": "blocker" if note["severity"] == "error" else "major",
            "location": {"path": note["file"], "lines": {"begin": note["line"]}},
        }
        for note in notes(report)
        if inside(note["file"])
    ]


def inside(file: str) -> bool:
    return bool(file) and not os.path.isabs(file)


def text(report: dict[str, Any]) -> str:
    lines = ["passed" if report["passed"] else "FAILED"]
    for port in [*report["ports"], *report["tokenizers"]]:
        verdict = "passed" if port["passed"] else "FAILED"
        lines.append(f"{port['name']}: {verdict}, {port['cases']} cases, {len(port['refused'])} refused")
        lines += [f"  {words}" for words in port["words"]]
        lines += [f"  {words}" for words in [*port["not_run"], *port["remarks"]]]
        lines += [f"  refused, so not verified: {words}" for words in port["refused"]]
    lines += report["failures"]
    lines += [f"not enforced on this machine: {entry}" for entry in report["not_enforced"]]
    notes_of_change = [note for note in report["notes"] if note["severity"] == "warning"]
    lines += [f"{note['file']}:{note['line']}: {note['text']}" for note in notes_of_change]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
