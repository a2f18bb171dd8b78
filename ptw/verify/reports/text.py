"""How does a person at a terminal read a report? A line a verifier, then in words what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptw.verify.reports.report import Measured, PortReport, Report


def show(report: Report, console: Console) -> None:
    """The table, what failed and why, what was refused, and what could not be enforced."""
    if report.ports:
        console.print(_table(report))
    for text, style in (*_lines(report), (report.summary, "" if report.passed else "bold red")):
        console.print(Text(text, style=style), soft_wrap=True)  # what is read by a program stays one line


def _table(report: Report) -> Table:
    table = Table("port", "verifier", "metric", "value", "limit", "case", "", box=None, header_style="bold")
    for column in (3, 4):
        table.columns[column].justify = "right"
    for port in report.ports:
        for entry in port.worst:
            style = "" if entry.passed else "red"
            table.add_row(*(Text(cell, style=style) for cell in _cells(port, entry)))
    return table


def _cells(port: PortReport, entry: Measured) -> tuple[str, ...]:
    verdict = ("kept" if port.kept else "ok") if entry.passed else "FAILED"
    numbers = (f"{entry.value:.3g}", f"{entry.limit:g}")
    return (port.port, entry.verifier, entry.metric, *numbers, entry.case, verdict)


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    for port in report.ports:
        if not port.passed:
            yield from ((f"{port.port}: {text}", "red") for text in port.brief)
        for note in port.notes:
            yield f"  {note.file}:{note.line}: {note.title or note.text}", "dim"
            yield from (
                (f"  {'>' if number == note.line else ' '} {number:4d}  {text}", "dim")
                for number, text in note.excerpt
            )
        yield from ((f"{port.port}: {entry}", "yellow") for entry in port.not_run)
        yield from ((f"{port.port}: refused, so not verified: {entry}", "yellow") for entry in port.refused)
        holes = (f"{port.port}: no case reaches it: {hole}" for hole in port.audit.holes)
        yield from ((text, "yellow") for text in holes)
        if port.kept:
            yield f"{port.port}: kept from {port.kept}, nothing that it depends on has changed", "dim"
    yield from ((failure, "red") for failure in report.failures)
    yield from ((f"not enforced on this machine: {entry}", "yellow") for entry in report.not_enforced)
    if report.change:
        yield from change_lines(report)


def change_lines(report: Report) -> Iterator[tuple[str, str]]:
    """What the change touches, its own judges above all."""
    change = report.change
    assert change is not None
    for kind in ("ports", "recipes", "verifiers"):
        names = getattr(change, kind)
        yield f"since {change.since}: {kind} touched: {', '.join(names) or 'none'}", ""
    for note in change.notes:
        yield f"{note.file}:{note.line}: {note.text}", "bold yellow"
