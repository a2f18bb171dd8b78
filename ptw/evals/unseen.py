"""Has a model learnt its test: by its training, by what it was made from, or by its codes?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.evals.cases import BACK
from ptw.evals.learnt import Repeated, repeated
from ptw.files.find import find
from ptw.files.same import shared
from ptw.runs import record
from ptw.runs.open import Opened
from ptw.tokens import fingerprint, semantic
from ptw.workspace.manifest import BUILT, DatasetEntry, Workspace

Table = Mapping[str, Any]  # of a plan, as JSON has it
# (source, leave_out) -> the test's files among it, and what of the test stands in its other rows
Compare = Callable[[tuple[str, ...], int], tuple[list[str], Repeated | None]]
TRAIN = "train it again with leave_out = 2"


@dataclass(frozen=True)
class Learnt:
    """A dataset that somebody learnt from, and what would do if it was too much of it."""

    by: str  # how a sentence begins that goes on with "learnt"
    dataset: Table
    mend: str = TRAIN


@dataclass(frozen=True)
class Unknown:
    """What can't be known, as it is told."""

    said: str


@dataclass(frozen=True)
class _Past:
    """What a model learnt, by whichever way; each folder is looked into once."""

    workspace: Workspace
    folders: set[Path] = field(default_factory=set)

    def of(self, opened: Opened) -> Iterator[Learnt | Unknown]:
        if opened.plan is None:
            entry = self.workspace.models.get(opened.name)
            if entry is not None:
                yield from self._of_model(f"{opened.name} is", asdict(entry))
            return
        yield from self._of_plan(opened.name, opened.plan)
        if opened.tokenizer is not None:
            for name, ids in opened.tokenizer.vocabularies.items():
                yield from self._of_codes(opened.name, name, ids.facts)

    def _of_plan(self, who: str, plan: Table) -> Iterator[Learnt | Unknown]:
        yield from (Learnt(who, part) for part in _parts(plan, plan["dataset"]))
        merges = _parts(plan, plan["tokenizer"].get("merges_from"))
        yield from (Learnt(f"{who} has merges, which", part) for part in merges)
        yield from self._of_model(f"{who} began from", plan["model"])
        for role, model in plan.get("roles", {}).items():
            yield from self._of_model(f"{who} has the {role}", model)

    def _of_model(self, who: str, model: Table) -> Iterator[Learnt | Unknown]:
        """Of the run whose folder this is, if it is one's; a checkpoint of others has learnt other things."""
        if model.get("hf") is None:
            return
        folder, told = self.workspace.root / model["hf"], f"{who} {model['hf']}, which"
        if not folder.is_dir():
            if model.get("revision") is None:
                yield Unknown(f"{told} is not there any more: what it learnt is not known")
            return
        if folder.resolve() in self.folders:
            return
        self.folders.add(folder.resolve())
        run = next((one for one in folder.resolve().parents[:2] if (one / record.FILE).is_file()), None)
        if run is not None:
            told = f"{who} {run.name}, which"
            yield from self._of_plan(told, record.read(run).plan)
        elif (folder / fingerprint.FILE).is_file():
            yield Unknown(f"{told} is an export: what it learnt is not known")
        for facts in sorted((folder / BUILT).glob(f"*/{semantic.FACTS}")):
            yield from self._of_codes(told, facts.parent.name, semantic.read_facts(facts.parent))

    def _of_codes(self, who: str, name: str, facts: Table) -> Iterator[Learnt | Unknown]:
        """What a vocabulary of semantic IDs knows of users: by their behaviour, by what read its texts."""
        who = f"{who} has semantic_ids.{name}, which"
        mend = f"build it again with leave_out = 2 (`ptw vocab build {name}`), and train again"
        parts = facts.get("learnt_from")
        behaviour = facts.get("declared", {}).get("behaviour") or ""
        if parts is None and behaviour in self.workspace.datasets:  # built before versions wrote it down
            parts = [asdict(share.dataset) for share in self.workspace.datasets[behaviour].parts]
        elif parts is None and behaviour:
            yield Unknown(f"{who} learnt from {behaviour}, declared no more: what of it is not known")
        yield from (Learnt(who, part, mend) for part in parts or ())
        yield from self._of_model(f"{who} has the encoder", facts.get("encoder_model") or {})


def demand_unseen(workspace: Workspace, opened: Opened, entry: DatasetEntry) -> list[str]:
    """What is not sure; PtwError if the model learnt what is tested, for nothing of these files was held out.

    entry: of the test, the last item of each row. Files are compared, not how they are declared, and where
    they are others, their rows.
    """
    compare = cache(partial(_compared, workspace.root, entry.source))  # a dataset may be learnt in many ways
    return [said for one in _Past(workspace).of(opened) if (said := _judged(one, compare))]


def _compared(
    root: Path, test: tuple[str, ...], source: tuple[str, ...], held_out: int
) -> tuple[list[str], Repeated | None]:
    """The files that a source has in common with the test; of its other rows, how many are the test's."""
    same = shared(root, source, test)
    if same and held_out < BACK["test"]:
        return same, None
    others = [file for file in find(root, source) if file.place not in same]
    return same, repeated(root, test, others, held_out) if others else None


def _judged(one: Learnt | Unknown, compare: Compare) -> str | None:
    if isinstance(one, Unknown):
        return one.said
    name, held_out = one.dataset["name"], one.dataset["leave_out"]
    if one.dataset["format"] != "event":
        return None
    try:
        same, rows = compare(tuple(one.dataset["source"]), held_out)
    except PtwError as error:
        events = "events" if held_out else "all events"
        return f"{one.by} learnt {events} of dataset {name}, which can't be compared with the test: {error}"
    if same and held_out < BACK["test"]:
        raise PtwError(
            f"{one.by} learnt the last items of {same[0]}, the test: dataset {name} had "
            f"leave_out = {held_out} when trained; {one.mend}"
        )
    return None if rows is None else _judged_by_rows(one, rows)


def _judged_by_rows(one: Learnt, rows: Repeated) -> str | None:
    """Equal rows need not be the test's, where they are short: some are told, all of them are refused."""
    name, held_out = one.dataset["name"], one.dataset["leave_out"]
    where = f"dataset {name} (leave_out = {held_out})"
    if rows.found and rows.found == rows.sequences:
        mend = "its rows go on beyond the test's, so test on these" if held_out else one.mend
        raise PtwError(
            f"{one.by} learnt all {rows.sequences:,} sequences of the test to their last items, in other "
            f"files, of {where}; {mend}"
        )
    read = f"{rows.rows:,} rows" if rows.all_read else f"first {rows.rows:,} rows, more were not read"
    if rows.found:
        return (
            f"{one.by} learnt {rows.found:,} of the test's {rows.sequences:,} sequences to their last items, "
            f"or equal ones, of {where} ({read}): of these the figures flatter"
        )
    if held_out and rows.all_read:
        return None
    return (
        f"{one.by} learnt events of {where}, in other files than the test's: none of its {rows.sequences:,} "
        f"sequences stands there whole ({read}); if parts of them do, or under another `id`, these figures "
        "flatter"
    )


def _parts(plan: Table, name: str | None) -> list[Table]:
    """Of a dataset of a plan those with rows of their own."""
    dataset = plan["datasets"].get(name)
    if dataset is None:
        return []
    return [share["dataset"] for share in dataset.get("mix") or [{"dataset": dataset}]]
