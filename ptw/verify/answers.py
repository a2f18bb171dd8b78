"""What does the reference say to a case, and to what a port left there? Asked, or kept by content."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ptw.verify import cases, prune, refusals
from ptw.verify.cases import Reference
from ptw.verify.judge import CaseFiles

Request = dict[str, object]


def ask(
    files: Sequence[CaseFiles],
    verifiers: Sequence[Path],
    reference: Reference,
    cache: Path,
    *,
    reads: bool,
    keeps: bool,
) -> None:
    """What the cache doesn't hold is computed, by as many processes as there are cores.

    reads, keeps: whether the cache may be read, and whether what is computed now goes into it.
    """
    missing, computed = [], cases.computing(verifiers)
    for request in (request for case in files for request in _requests(case, verifiers)):
        kept = cache / "answers" / _name(request, computed)
        if reads and kept.exists():
            shutil.copyfile(kept, str(request["write"]))
            prune.used(kept)
        else:
            missing.append((request, kept))
    reference.answer([request for request, _ in missing])
    for request, kept in missing if keeps else ():
        if Path(str(request["write"])).exists():
            cases.publish(Path(str(request["write"])), kept)


def _requests(case: CaseFiles, verifiers: Sequence[Path]) -> Iterator[Request]:
    """For what the port answered only: the rest has failed already."""
    said = case.ours[0]
    if not (said / "trace.safetensors").exists() or refusals.is_wanted(case):
        return
    asked: Request = {"given": str(case.given), "verifiers": [str(file) for file in verifiers]}
    yield asked | {"write": str(case.answer)}
    if (said / "export").exists() or (said / "adapter").exists():
        yield asked | {"write": str(case.reopened), "handed": str(said)}


def _name(request: Mapping[str, object], computed: str) -> str:
    folders = [Path(str(request["given"]))]
    if "handed" in request:
        handed = Path(str(request["handed"]))
        folders += [handed / name for name in ("export", "adapter") if (handed / name).exists()]
    return f"{cases.digest(computed, *folders)}.safetensors"
