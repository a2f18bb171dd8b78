"""Which codes stand for an item, and in which tokens are they written?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ptw.errors import NotBuilt, PtwError
from ptw.workspace.manifest import BUILT, SemanticIdsEntry

FACTS, ITEMS = "vocabulary.json", "items.parquet"


@dataclass(frozen=True)
class SemanticIds:
    """One version of a vocabulary: (N, L) codes of N items, no two alike; a code is below codebook_size."""

    name: str
    codebook_size: int
    items: tuple[str, ...]
    codes_NL: np.ndarray[Any, np.dtype[np.int32]]
    facts: Mapping[str, Any] = field(default_factory=dict)  # of vocabulary.json

    @property
    def levels(self) -> int:
        return int(self.codes_NL.shape[1])

    @property
    def version(self) -> int:
        return int(self.facts.get("version", 0))

    @cached_property
    def tokens(self) -> list[str]:
        """Of the whole code space, level by level: code c of level l is number l * codebook_size + c."""
        size = self.codebook_size
        return [self.token(number // size, number % size) for number in range(self.levels * size)]

    def token(self, level: int, code: int) -> str:
        return f"<|{self.name}.{level}.{code}|>"

    def item_of(self, codes: tuple[int, ...]) -> str | None:
        """None where no item has these codes."""
        row = self._row_of_codes.get(codes)
        return None if row is None else self.items[row]

    @cached_property
    def _row_of_codes(self) -> dict[tuple[int, ...], int]:
        return {tuple(codes): row for row, codes in enumerate(self.codes_NL.tolist())}

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.items)}

    @cached_property
    def digest(self) -> str:
        """sha256 of which codes stand for which item."""
        hashed = hashlib.sha256(f"{self.name} {self.codebook_size} {self.codes_NL.shape}".encode())
        hashed.update("\0".join(self.items).encode())
        hashed.update(np.ascontiguousarray(self.codes_NL, dtype="<i4").tobytes())
        return hashed.hexdigest()

    def changed(self, since: SemanticIds) -> int:
        """How many items of an earlier version have other codes here, or none."""
        there = [(self.row_of.get(item), row) for row, item in enumerate(since.items)]
        both = np.array([pair for pair in there if pair[0] is not None], dtype=np.int64).reshape(-1, 2)
        if self.levels != since.levels or self.codebook_size != since.codebook_size:
            return len(since.items)
        same = (self.codes_NL[both[:, 0]] == since.codes_NL[both[:, 1]]).all(-1).sum()
        return len(since.items) - int(same)

    def descends_from(self, other: SemanticIds) -> bool:
        """Whether it was made of the other by `extend`, over any number of versions."""
        return other.digest in (self.digest, *self.facts.get("ancestors", ()))


def versions(root: Path, name: str) -> list[int]:
    """Those that were built, in order."""
    folder = root / BUILT / name
    found = (path.parent.name for path in folder.glob(f"*/{FACTS}"))
    return sorted(int(number) for number in found if number.isdigit())


def version_folder(root: Path, name: str, version: int) -> Path:
    return root / BUILT / name / f"{version:04d}"


def chosen_version(root: Path, entry: SemanticIdsEntry) -> int:
    """The one that is declared, else the newest; PtwError where it was not built."""
    known = versions(root, entry.name)
    if not known:
        raise NotBuilt(f"semantic_ids.{entry.name}: none was built yet; run `ptw vocab build {entry.name}`")
    wanted = entry.version or known[-1]
    if wanted not in known:
        there = ", ".join(map(str, known))
        raise PtwError(f"semantic_ids.{entry.name}: version = {wanted} is not there; there are {there}")
    return wanted


def declared(entry: SemanticIdsEntry) -> dict[str, Any]:
    """What of a declaration makes other codes."""
    keys = ("embeddings", "encoder", "text", "behaviour", "quantizer", "levels", "codebook_size", "seed")
    return {key: getattr(entry, key) for key in keys}


def demand_as_declared(entry: SemanticIdsEntry, facts: Mapping[str, Any]) -> None:
    """PtwError where a version was built by another declaration. One that nobody built by any has none."""
    now, then = declared(entry), facts.get("declared", {})
    other = [key for key in then if now[key] != then[key] and key != "seed"]
    if other:
        key = other[0]
        raise PtwError(
            f"semantic_ids.{entry.name}: {key} = {now[key]!r}, but version {facts['version']} was built with "
            f"{then[key]!r}: put it back, or `ptw vocab build {entry.name}` anew"
        )


def open_semantic_ids(root: Path, entry: SemanticIdsEntry) -> SemanticIds:
    """The version that is chosen; PtwError where it is not there, or not whole."""
    folder = version_folder(root, entry.name, chosen_version(root, entry))
    found = read_version(folder)
    if found.name != entry.name:
        raise PtwError(f"{folder}: it is of semantic_ids.{found.name}")
    return found


def read_facts(folder: Path) -> dict[str, Any]:
    """What is known of a version beside its codes."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return {**facts, "digest": facts["digest"], "files": facts["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PtwError(f"{folder / FACTS}: can't be read ({error!r}); build the vocabulary again") from error


def read_version(folder: Path) -> SemanticIds:
    """PtwError where it can't be read, or two items share their codes."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    facts = read_facts(folder)
    try:
        table = read_table(folder / ITEMS)
        names = tuple(table["id"].to_pylist())
        codes = [table[f"code_{level}"].to_numpy() for level in range(int(facts["levels"]))]
        found = SemanticIds(
            facts["name"], int(facts["codebook_size"]), names, np.stack(codes, -1).astype(np.int32), facts
        )
    except (OSError, ValueError, KeyError, TypeError, ArrowException) as error:
        raise PtwError(f"{folder}: no vocabulary of semantic IDs ({error!r}); build it again") from error
    _demand_whole(folder, found)
    return found


def write_version(folder: Path, found: SemanticIds) -> None:
    """Its two files, in a folder that is there; OSError where they can't be written."""
    from pyarrow import Table, array
    from pyarrow.parquet import write_table

    codes = {f"code_{level}": array(found.codes_NL[:, level]) for level in range(found.levels)}
    write_table(Table.from_pydict({"id": array(list(found.items)), **codes}), folder / ITEMS)
    own = {"name": found.name, "levels": found.levels, "codebook_size": found.codebook_size}
    facts = {**found.facts, **own, "items": len(found.items), "digest": found.digest}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def ambiguous(codes_NL: np.ndarray[Any, Any]) -> int:
    """How many items share their codes with an earlier one."""
    return len(codes_NL) - len(np.unique(codes_NL, axis=0))


def _demand_whole(folder: Path, found: SemanticIds) -> None:
    doubled = ambiguous(found.codes_NL) + len(found.items) - len(set(found.items))
    outside = int(((found.codes_NL < 0) | (found.codes_NL >= found.codebook_size)).sum())
    if doubled or outside or found.facts.get("digest") not in (None, found.digest):
        raise PtwError(f"{folder}: its files were changed since they were written; build it again")
