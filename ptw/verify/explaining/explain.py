"""Why does a port fail, in words, and at which of its lines? From its cases, and from a second round."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from ptw.verify import sandbox
from ptw.verify.cases import Family, Reference
from ptw.verify.explaining import effects, lines, locate
from ptw.verify.judge import CaseFiles
from ptw.verify.reports.report import Audit, SubjectReport

UNAUDITED = "the cases came without an audit"


def with_effects(report: SubjectReport, family: Family, files: Sequence[CaseFiles]) -> SubjectReport:
    """The fields that were tried alone, with what they do to both."""
    said, refused = {}, set()
    drawn = {case.name: family.drawn(case.name) for case in files}
    for case in files:
        if drawn[case.name].get("kind") != "field":
            continue
        written = case.ours[0]
        if (written / "refused").exists():
            refused.add(case.name)
        try:
            said[case.name] = (load_file(written / "trace.safetensors"), load_file(case.answer))
        except (SafetensorError, OSError, ValueError):  # its failure stands in the report
            continue
    return replace(report, effects=effects.effects(said, drawn, frozenset(refused)))


def with_audit(report: SubjectReport, family: Family, level: str) -> SubjectReport:
    """What no case reaches fails an acceptance: nobody knows whether the port follows it."""
    file = family.folder / "audit.json"
    audit = read_audit(file) if file.exists() or family.error else Audit(holes=(UNAUDITED,))
    holes = [f"no case reaches it: {hole}" for hole in audit.holes] if level == "acceptance" else []
    return replace(report, audit=audit, failures=(*report.failures, *holes))


def read_audit(file: Path) -> Audit:
    if not file.exists():
        return Audit()
    values = json.loads(file.read_text())
    moved, inert = [], []
    for name, entry in sorted(values.get("fields", {}).items()):
        if entry.get("moved_by"):
            moved.append((name, str(entry["moved_by"])))
        elif entry.get("inert"):
            inert.append((name, str(entry.get("why", ""))))
    moved += [(name, str(case)) for name, case in sorted(values.get("parameters", {}).items()) if case]
    return Audit(tuple(moved), tuple(inert), tuple(str(hole) for hole in values.get("holes", ())))


def with_trace(
    report: SubjectReport,
    family: Family,
    file: Path,
    folder: Path,
    reference: Reference,
    limits: sandbox.Limits,
) -> SubjectReport:
    """Where the two part: traced once more on the cases that say most, the port apart and first."""
    drawn: dict[str, Mapping[str, Any]] = {name: family.drawn(name) for name in family.names}
    cases = locate.to_trace(report, drawn)
    if not cases:
        return report
    given = {name: family.given / name for name in cases}
    traced = locate.locate(family.model_type, file, given, drawn, folder, reference, limits)
    parted = next((one for one in traced if one.divergence), None)
    shown = parted or next((one for one in traced if one.heat), None)
    if shown is None:
        return report
    words = report.explained
    exact = [entry for entry in report.measured if 0 < entry.limit < locate.EXACT and not entry.passed]
    if exact and parted is None:
        where = ", ".join(one.case for one in traced)
        words = (
            f"every module that port and reference both have gives the same to one document alone ({where}): "
            "look at what only training, packing, caching, other precisions or loading do",
            *words,
        )
    return replace(report, divergence=shown.divergence, heat=shown.heat, explained=words)


def with_notes(report: SubjectReport, file: Path, root: Path | None) -> SubjectReport:
    """Errors at the lines of a failing port."""
    text = file.read_text(errors="replace")
    inside = root is not None and file.is_relative_to(root)
    name = file.relative_to(root).as_posix() if inside and root is not None else str(file)
    if report.passed:
        return replace(report, file=name)
    found = lines.notes(
        name, text, report.divergence, report.effects, [*report.failures, *report.explained, *_bare(report)]
    )
    return replace(report, file=name, notes=found)


def _bare(report: SubjectReport) -> list[str]:
    return [
        f"{entry.verifier} {entry.metric} is {entry.value:.3g}, the limit {entry.limit:g} (case {entry.case})"
        for entry in report.measured
        if not entry.passed
    ]
