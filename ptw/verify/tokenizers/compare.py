"""Which tokenizers have to be compared anew, and by which verifiers? Imports nothing heavy before that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ptw.runs.record import RunRecord
from ptw.verify.phases import Phases
from ptw.verify.reports.report import SubjectReport
from ptw.verify.verdicts import Verdicts
from ptw.workspace import manifest, rooms
from ptw.workspace.document import FILE


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
    """The files that it is made of and compared on, as far as they lie here: all datasets give texts."""
    workspace = manifest.read(root)
    entry = workspace.tokenizers[name]
    named = [entry.hf, entry.items, entry.chat_template]
    named += [source for dataset in workspace.datasets.values() for source in dataset.source]
    files = [root / FILE]
    for pattern in filter(None, named):
        files += _files(root, pattern)
    return tuple(dict.fromkeys(files))


def _files(root: Path, pattern: str) -> Iterator[Path]:
    """Of a folder, a file or a glob; none of what lies elsewhere."""
    if (root / pattern).is_dir():
        yield from (path for path in sorted((root / pattern).iterdir()) if path.is_file())
    elif "://" not in pattern and not Path(pattern).is_absolute():
        yield from sorted(root.glob(pattern))
    elif (root / pattern).is_file():
        yield root / pattern


def _place(root: Path, verdicts: Verdicts, name: str) -> Path:
    stats = [(str(file), file.stat()) for file in tokenizer_places(root, name) if file.is_file()]
    stamps: list[object] = [[file, stat.st_size, stat.st_mtime_ns] for file, stat in stats]
    return verdicts.named(f"tokenizer-{name}", stamps)
