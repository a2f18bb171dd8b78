"""Under which circumstances does each verifier's probe run, and on which cases?"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ptw.verify import sandbox
from ptw.verify.judge import DRAWN, Verifier

MODULES = {1: "ptw.verify.port.trace", 2: "ptw.verify.port.trace_sharded"}  # by processes that hold one model
TRY, TRIED, TRY_SECONDS = "ptw.verify.port.try_sharded", "tried", 60


@dataclass(frozen=True)
class Pass:
    """Verifiers whose probes run under the same circumstances, on the cases of one kind."""

    name: str
    verifiers: tuple[Verifier, ...]
    cases: str = DRAWN
    alone: bool = False
    workers: int = 1

    @property
    def module(self) -> str:
        """What runs apart."""
        return MODULES[self.workers]

    @property
    def folder(self) -> str:
        """Of a family's: where the cases are."""
        return "given" if self.cases == DRAWN else self.cases


def passes(verifiers: Iterable[Verifier]) -> list[Pass]:
    """Those on drawn cases start while these are drawn; after them what needs other cases, or quiet."""
    verifiers = list(verifiers)
    kinds = {(one.cases != DRAWN, one.cases, one.alone, one.workers) for one in verifiers}
    found = []
    for later, cases, alone, workers in sorted(kinds | {(False, DRAWN, False, 1)}):
        own = [one for one in verifiers if (one.cases, one.alone, one.workers) == (cases, alone, workers)]
        words = [cases] * later + ["sharded"] * (workers > 1)
        found.append(Pass("-".join(words) or "together", tuple(own), cases, alone, workers))
    return found


def failed(output: Path) -> bool:
    """Whether a port's process left a case without an answer there."""
    return any(True for _ in output.glob("*/error")) or not any(True for _ in output.iterdir())


def why_unlinked(folder: Path) -> str:
    """Why two processes can't hold one model on this machine, whatever port; empty where they could.

    Only a network that is not there forgives a port: a machine that is slow or broken does not.
    """
    shutil.rmtree(folder, ignore_errors=True)
    limits = sandbox.Limits(seconds=TRY_SECONDS)
    outcome = sandbox.run_apart(TRY, {}, folder, limits, processes=2, linked=True)
    if (folder / TRIED).exists():
        return ""
    return next((entry for entry in outcome.missing if "loopback" in entry), "")
