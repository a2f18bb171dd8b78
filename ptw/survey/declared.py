"""Which datasets does a workspace declare, how large are they, and who uses them?"""

from dataclasses import dataclass
from typing import Any

from ptw.errors import PtwError
from ptw.files.find import find, size_bytes
from ptw.survey.setup import uses
from ptw.workspace.manifest import DatasetEntry, Workspace

UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Declared:
    """A dataset; its `files` and their bytes as they are stored, or why nobody knows. A mix has `shares`."""

    name: str
    format: str
    source: tuple[str, ...]
    recipes: tuple[str, ...]
    files: int | None = None
    stored_bytes: int | None = None
    shares: tuple[tuple[str, float], ...] = ()
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "shares": dict(self.shares)}

    def as_row(self) -> tuple[str, str, str, str]:
        return self.name, self.format, self._files(), ", ".join(self.recipes) or "-"

    def _files(self) -> str:
        if self.problem is not None:
            return self.problem
        if self.shares:
            return ", ".join(f"{name} {share:.1%}" for name, share in self.shares)
        assert self.files is not None
        assert self.stored_bytes is not None
        files = "1 file" if self.files == 1 else f"{self.files:,} files"
        return f"{files}, {size_text(self.stored_bytes)}"


def declared(workspace: Workspace) -> list[Declared]:
    """In the order of workspace.toml."""
    return [_declared(workspace, dataset) for dataset in workspace.datasets.values()]


def size_text(count: float) -> str:
    """Three digits or so."""
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 or count >= 100 else f"{count:.1f} {UNITS[unit]}"


def _declared(workspace: Workspace, dataset: DatasetEntry) -> Declared:
    recipes = tuple(dict.fromkeys(str(use.recipe) for use in uses(workspace, dataset.name)))
    about = (dataset.name, dataset.format, dataset.source, recipes)
    if dataset.mix:
        weights = sum(share.weight for share in dataset.mix)
        return Declared(
            *about, shares=tuple((share.dataset.name, share.weight / weights) for share in dataset.mix)
        )
    try:
        files = find(workspace.root, dataset.source)
        return Declared(*about, len(files), sum(size_bytes(file) for file in files))
    except PtwError as error:
        return Declared(*about, problem=str(error))
