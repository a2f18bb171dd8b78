"""What was a port kept from? Each protection of the sandbox in words."""

from __future__ import annotations

from collections.abc import Sequence

ALWAYS = (
    "a process of its own, which ends before the reference runs",
    "the reference can't be imported, nor its modules read, by any name",
    "an environment of its own: no credentials, no caches",
    "limits on memory, on seconds, and on the size of what it writes",
    "files are written to its output folder and /tmp only",
    "no privileges are gained by any program",
)
WITH_NAMESPACES = (
    "a file tree of its own, without transformers, the workspace and the caches",
    "no network: not even its own machine's",
    "a process table of its own: it sees no other process",
    "what it started ends with it",
)
CAPABILITIES, NO_CAPABILITIES = "no capabilities, and where it began as root it is nobody", "capabilities"
PROCESSES, NO_PROCESSES = "a limit on processes", "no limit on processes"


def enforced(namespaced: bool, missing: Sequence[str]) -> tuple[str, ...]:
    """What held, given what the sandbox said it could not enforce."""
    found = [*(WITH_NAMESPACES if namespaced else ()), *ALWAYS]
    if not any(entry.startswith(NO_CAPABILITIES) for entry in missing):
        found.append(CAPABILITIES)
    if not any(NO_PROCESSES in entry for entry in missing):
        found.append(PROCESSES)
    return tuple(found)
