"""Which rows are labelled already, however often the run was killed? What the workers' files hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptw.runs import lines
from ptw.train.group import Group

PARTS = "labelled-*.jsonl"
Key = tuple[int, int]  # a row of the dataset, and which of its answers; both counted from 0


class Stage:
    """What is said of each key in one stage of a run: by all workers, in this life and in earlier ones.

    Every worker appends to a file of its own, a line a key, and reads the files of all, however many workers
    there were. What is in it changes by `refresh` only, so that all workers know the same.
    """

    def __init__(self, folder: Path, name: str, group: Group) -> None:
        self.name = name
        self._folder, self._group = folder, group
        self._own = folder / f"labelled-{name}-{group.rank:05d}.jsonl"
        self._places: dict[Key, tuple[Path, int]] = {}
        self.refused = 0  # how many of them are
        cut(self._own)
        self.refresh()

    def refresh(self) -> None:
        """Read what the workers wrote since. All call it together."""
        self._group.wait()  # all have written
        self._places.clear()
        refused = set[Key]()
        for path, begin, line in self._written():
            key = line["row"], line["answer"]
            self._places[key] = path, begin
            (refused.add if "refused" in line else refused.discard)(key)
        self.refused = len(refused)
        self._group.wait()  # nobody writes before all have read

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        path, begin = self._places[key]
        with path.open("rb") as file:
            file.seek(begin)
            found: dict[str, Any] = json.loads(file.readline())
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """In no order."""
        return (self[key] for key in self._places)

    def of(self, row: int) -> Iterator[tuple[Key, dict[str, Any]]]:
        """Of a row, answer by answer."""
        answer = 0
        while (row, answer) in self:
            yield (row, answer), self[row, answer]
            answer += 1

    def answered(self) -> int | None:
        """A row that was answered, by whichever worker, if there is one; also since `refresh`."""
        return next((line["row"] for _, _, line in self._written() if "message" in line), None)

    def add(self, key: Key, said: Mapping[str, Any]) -> None:
        """Write it down, where it is not there; it is in the stage after `refresh`."""
        if key not in self:
            lines.append(self._own, {"row": key[0], "answer": key[1], **said})

    def _written(self) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        for path in sorted(self._folder.glob(f"labelled-{self.name}-*.jsonl")):
            yield from ((path, begin, line) for begin, line in _whole_lines(path))


def count(folder: Path) -> int:
    """How many lines the workers wrote, of all stages."""
    total = 0
    for path in folder.glob(PARTS):
        with path.open("rb") as file:
            total += sum(1 for _ in file)
    return total


def _whole_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line with the byte at which it begins. A half one is being written, or never will be."""
    begin = 0
    with path.open("rb") as file:
        for text in file:
            if text.endswith(b"\n") and (line := _parsed(text)) is not None:
                yield begin, line
            begin += len(text)


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None  # torn by a crash of the machine; it is said again
    return line if isinstance(line, dict) and "row" in line else None


def cut(path: Path) -> None:
    """Drop half a line at the end, or the next one would be part of it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = 0
        for text in file:
            whole += len(text) if text.endswith(b"\n") else 0
        file.truncate(whole)
