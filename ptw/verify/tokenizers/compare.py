"""Which tokenizers have to be compared anew, and by which verifiers? Imports nothing heavy before that."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from ptw.runs.record import RunRecord
from ptw.verify.phases import Phases
from ptw.verify.reports.report import SubjectReport
from ptw.verify.verdicts import Verdicts
from ptw.workspace import manifest, rooms
from ptw.workspace.document import FILE
from ptw.workspace.manifest import BUILT


def compare(
    root: Path,
    chosen: Sequence[str | RunRecord],
    level: str,
    seed: int,
    only: Sequence[str],
    verdicts: Verdicts | None,
    phases: Phases,
) -> tuple[SubjectReport, ...]:
    """A report each, of tokenizers by name and of runs. Passes of tokenizers are kept, as those of ports."""
    places = (
        {}
        if verdicts is None
        else {one: _place(root, verdicts, one) for one in chosen if isinstance(one, str)}
    )
    found = {one: verdicts.find_at(place) for one, place in places.items()} if verdicts else {}
    kept = {name: verdict.report for name, verdict in found.items() if verdict is not None}
    rest = [one for one in chosen if isinstance(one, RunRecord) or one not in kept]
    reports = dict(kept)
    if rest:
        from ptw.verify.judge import asked_for, read_verifiers
        from ptw.verify.tokenizers.run import verify_tokenizers

        read = read_verifiers(rooms.files(root, "verifiers"), "tokenizer")
        verifiers = asked_for([verifier for verifier in read if level in verifier.levels], only)
        for report in verify_tokenizers(manifest.read(root), rest, verifiers, level, seed, phases):
            reports[report.name] = report
            place = places.get(report.name)
            # a tokenizer that was changed meanwhile is not the one that was compared
            if verdicts is not None and place is not None and _place(root, verdicts, report.name) == place:
                verdicts.keep(place, report, ())
    return tuple(reports[one if isinstance(one, str) else one.name] for one in chosen)


def tokenizer_places(root: Path, name: str) -> tuple[Path, ...]:
    """The files and folders here that it is made of and compared on: all datasets give texts."""
    workspace = manifest.read(root)
    entry = workspace.tokenizers[name]
    named = [entry.hf, entry.items, entry.chat_template]
    named += [f"{BUILT}/{vocabulary}" for vocabulary in entry.semantic_ids]
    named += [source for dataset in workspace.datasets.values() for source in dataset.source]
    here = [pattern for pattern in named if pattern and "://" not in pattern]
    return tuple(dict.fromkeys([root / FILE, *(_place_of(root, pattern) for pattern in here)]))


def _place_of(root: Path, pattern: str) -> Path:
    """Of a glob the folder that it begins in."""
    parts = Path(pattern).parts
    plain = tuple(takewhile(lambda part: not set(part) & set("*?["), parts))
    return root.joinpath(*plain)


def _files(place: Path) -> list[Path]:
    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [file for file in found if file.is_file()]


def _place(root: Path, verdicts: Verdicts, name: str) -> Path:
    """Of the verdict on it as it stands."""
    stamps: list[object] = [importlib.util.find_spec("vllm") is not None]
    for file in (file for place in tokenizer_places(root, name) for file in _files(place)):
        stat = file.stat()
        stamps.append([str(file), stat.st_size, stat.st_mtime_ns])
    return verdicts.named(f"tokenizer-{name}", stamps)
