"""What does one read of a version of a vocabulary: figures, neighbours, the tree of its codes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ptw.errors import PtwError
from ptw.tokens.semantic import (
    SemanticIds,
    chosen_version,
    read_facts,
    read_version,
    version_folder,
    versions,
)
from ptw.vocab.catalogue import Catalogue, read_catalogue
from ptw.workspace.manifest import Workspace

SHOWN = 4  # items whose neighbours are shown
BESIDE = 5  # of each
SHORT = 90  # characters of an item's text


@dataclass(frozen=True)
class Neighbours:
    """An item, and those that share the most of its first codes."""

    item: str
    text: str
    codes: tuple[int, ...]
    beside: tuple[tuple[int, str, str], ...]  # codes in common, item, text


@dataclass(frozen=True)
class Report:
    folder: Path
    ids: SemanticIds
    neighbours: tuple[Neighbours, ...]

    @property
    def figures(self) -> dict[str, Any]:
        return dict(self.ids.facts["figures"])

    def facts(self) -> list[tuple[str, str]]:
        """Each with its name, as it is shown."""
        found, facts = self.figures, self.ids.facts
        nearest = found["left_over_before_moving"]
        made = f"{facts['made_by']} of {', '.join(facts['files'])}"
        rows = [
            ("made by", made + (f", from version {facts['parent']}" if facts.get("parent") else "")),
            ("items", f"{found['items']:,}, no two with the same codes"),
            ("moved", f"{found['moved']:.1%}, to the nearest codes that were free"),
            ("largest bucket", f"{found['largest_bucket']:,} items had the same nearest codes"),
            ("left over", f"{found['left_over']:.1%} of the vectors ({nearest:.1%} before moving)"),
        ]
        silent = facts.get("nothing_known", {"items": 0})
        if silent["items"]:
            named = ", ".join(silent["first"])
            rows.append(("nothing known", f"of {silent['items']:,} items, whose codes say nothing: {named}"))
        for number, level in enumerate(found["levels"]):
            used = f"{level['used']:,} of {level['of']:,} codes used, perplexity {level['perplexity']:,.1f}"
            rows.append((f"level {number}", used))
        for key, shares in found["coherence"].items():
            rows.append((f"same {key}", _shares(shares)))
        if "churn" in facts:
            told = [f"{share:.1%} by {depth}" for depth, share in facts["churn"].items()]
            rows.append(("changed", f"of old items' first codes: {', '.join(told)}"))
        return rows

    def as_json(self) -> dict[str, Any]:
        return {
            **self.ids.facts,
            "folder": str(self.folder),
            "neighbours": [vars(one) for one in self.neighbours],
        }


def report_of(workspace: Workspace, folder: Path) -> Report:
    ids = read_version(folder)
    return Report(folder.relative_to(workspace.root), ids, tuple(_neighbours(ids, _texts(workspace, ids))))


def table(report: Report) -> RenderableType:
    """For a terminal."""
    facts = Table.grid(padding=(0, 2))
    for name, text in report.facts():
        facts.add_row(Text(name, style="dim"), Text(text))
    parts: list[RenderableType] = [Text(str(report.folder)), facts]
    for one in report.neighbours:
        beside = Table.grid(padding=(0, 2))
        for common, item, text in one.beside:
            beside.add_row(Text(f"  {common} alike", style="dim"), Text(item), Text(text))
        parts += [Text(f"\n{one.item}  {'.'.join(map(str, one.codes))}  {one.text}"), beside]
    return Group(*parts)


def listed(workspace: Workspace) -> list[dict[str, Any]]:
    """Each declared vocabulary with the versions that were built."""
    found = []
    for name, entry in workspace.semantic_ids.items():
        known = versions(workspace.root, name)
        used = chosen_version(workspace.root, entry) if known else None
        facts = {} if used is None else read_facts(version_folder(workspace.root, name, used))
        found.append(
            {
                "name": name,
                "versions": known,
                "used": used,
                "items": facts.get("items"),
                "levels": entry.levels,
                "codebook_size": entry.codebook_size,
            }
        )
    return found


def listing(found: Sequence[dict[str, Any]]) -> RenderableType:
    shown = Table(box=None, pad_edge=False)
    for column in ("vocabulary", "versions", "used", "items", "codes"):
        shown.add_column(column)
    for one in found:
        built = ", ".join(map(str, one["versions"])) or f"none: ptw vocab build {one['name']}"
        items = "-" if one["items"] is None else f"{one['items']:,}"
        codes = f"{one['levels']} x {one['codebook_size']}"
        shown.add_row(one["name"], built, str(one["used"] or "-"), items, codes)
    return shown


def _shares(shares: dict[str, float]) -> str:
    told = [f"{share:.1%} with {depth} alike" for depth, share in shares.items() if depth != "0"]
    return f"{shares.get('0', 0):.1%} of any two items, " + ", ".join(told)


def _texts(workspace: Workspace, ids: SemanticIds) -> dict[str, str]:
    """Of the items whose files are still there."""
    entry = workspace.semantic_ids.get(ids.name)
    key = "text" if entry is None else entry.text
    found: dict[str, str] = {}
    for file in ids.facts["files"]:
        try:
            catalogue: Catalogue = read_catalogue(workspace.root, file)
        except PtwError:
            continue  # the codes are right without it
        for name, row in zip(catalogue.ids, catalogue.rows, strict=True):
            text = " ".join(str(row.get(key, "")).split())
            found[name] = text if len(text) <= SHORT else text[: SHORT - 3] + "..."
    return found


def _neighbours(ids: SemanticIds, texts: dict[str, str]) -> list[Neighbours]:
    rows = np.random.default_rng(0).permutation(len(ids.items))[:SHOWN]
    found = []
    for row in rows.tolist():
        alike_N = (ids.codes_NL == ids.codes_NL[row]).cumprod(-1).sum(-1)
        alike_N[row] = -1
        nearest = np.argsort(-alike_N, kind="stable")[:BESIDE]
        beside = tuple(
            (int(alike_N[at]), ids.items[at], texts.get(ids.items[at], ""))
            for at in nearest.tolist()
            if alike_N[at] > 0
        )
        name = ids.items[row]
        found.append(Neighbours(name, texts.get(name, ""), tuple(ids.codes_NL[row].tolist()), beside))
    return found
