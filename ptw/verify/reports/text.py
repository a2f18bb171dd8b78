"""How does a person at a terminal read a report? A line a verifier, then in words what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptw.verify.reports.report import Measured, Report, SubjectReport


def show(report: Report, console: Console) -> None:
    """The table, what failed and why, what was refused, and what could not be enforced."""
    for kind, subjects in (("port", report.ports), ("tokenizer", report.tokenizers)):
        if subjects:
            console.print(_table(kind, subjects))
    for text, style in (*_lines(report), (report.summary, "" if report.passed else "bold red")):
        console.print(Text(text, style=style), soft_wrap=True)  # what is read by a program stays one line


def _table(kind: str, subjects: Sequence[SubjectReport]) -> Table:
    place = "case" if kind == "port" else "compared"
    table = Table(kind, "verifier", "metric", "value", "limit", place, "", box=None, header_style="bold")
    for column in (3, 4):
        table.columns[column].justify = "right"
    for subject in subjects:
        for entry in subject.worst:
            style = "" if entry.passed else "red"
            table.add_row(*(Text(cell, style=style) for cell in _cells(subject, entry)))
    return table


def _cells(subject: SubjectReport, entry: Measured) -> tuple[str, ...]:
    verdict = ("kept" if subject.kept else "ok") if entry.passed else "FAILED"
    numbers = (f"{entry.value:.3g}", f"{entry.limit:g}")
    return (subject.name, entry.verifier, entry.metric, *numbers, entry.case, verdict)


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    for subject in report.subjects:
        if not subject.passed:
            yield from ((f"{subject.name}: {text}", "red") for text in subject.brief)
        for note in subject.notes:
            yield f"  {note.file}:{note.line}: {note.title or note.text}", "dim"
            yield from (
                (f"  {'>' if number == note.line else ' '} {number:4d}  {text}", "dim")
                for number, text in note.excerpt
            )
        yield from ((f"{subject.name}: {entry}", "yellow") for entry in (*subject.not_run, *subject.remarks))
        yield from (
            (f"{subject.name}: refused, so not verified: {entry}", "yellow") for entry in subject.refused
        )
        holes = (f"{subject.name}: no case reaches it: {hole}" for hole in subject.audit.holes)
        yield from ((text, "yellow") for text in holes)
        if subject.kept:
            yield f"{subject.name}: kept from {subject.kept}, nothing that it depends on has changed", "dim"
    yield from ((failure, "red") for failure in report.failures)
    yield from ((f"not enforced on this machine: {entry}", "yellow") for entry in report.not_enforced)
    if report.change:
        yield from change_lines(report)


def change_lines(report: Report) -> Iterator[tuple[str, str]]:
    """What the change touches, its own judges above all."""
    change = report.change
    assert change is not None
    for kind in ("ports", "tokenizers", "recipes", "verifiers"):
        names = getattr(change, kind)
        yield f"since {change.since}: {kind} touched: {', '.join(names) or 'none'}", ""
    for note in change.notes:
        yield f"{note.file}:{note.line}: {note.text}", "bold yellow"
