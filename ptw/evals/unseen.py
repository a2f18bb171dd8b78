"""Has a model learnt its test: by its training, by what it was made from, or by its codes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.evals.cases import BACK
from ptw.files.same import shared
from ptw.runs import record
from ptw.runs.open import Opened
from ptw.tokens import fingerprint, semantic
from ptw.workspace.manifest import BUILT, DatasetEntry, Workspace

Table = Mapping[str, Any]  # of a plan, as JSON has it
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

    entry: of the test, the last item of each row. Files are compared, not how they are declared.
    """
    return [said for one in _Past(workspace).of(opened) if (said := _judged(workspace.root, one, entry))]


def _judged(root: Path, one: Learnt | Unknown, entry: DatasetEntry) -> str | None:
    if isinstance(one, Unknown):
        return one.said
    name, held_out = one.dataset["name"], one.dataset["leave_out"]
    if one.dataset["format"] != "event" or held_out >= BACK["test"]:
        return None
    try:
        same = shared(root, tuple(one.dataset["source"]), entry.source)
    except PtwError as error:
        return f"{one.by} learnt all events of dataset {name}, which can't be compared with the test: {error}"
    if same:
        raise PtwError(
            f"{one.by} learnt the last items of {same[0]}, the test: dataset {name} had "
            f"leave_out = {held_out} when trained; {one.mend}"
        )
    return (
        f"{one.by} learnt all events of dataset {name} (leave_out = {held_out}), in other files than the "
        "test's: if the test's are among them, these figures flatter"
    )


def _parts(plan: Table, name: str | None) -> list[Table]:
    """Of a dataset of a plan those with rows of their own."""
    dataset = plan["datasets"].get(name)
    if dataset is None:
        return []
    return [share["dataset"] for share in dataset.get("mix") or [{"dataset": dataset}]]
