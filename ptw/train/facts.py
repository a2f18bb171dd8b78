"""What does a run depend on beside its settings? Written down when it begins, compared when it goes on."""

import hashlib
from pathlib import Path
from typing import Any

from ptw.data.sources import digest
from ptw.errors import PtwError
from ptw.ports.source import resolve as resolve_source
from ptw.runs import origin, record
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.semantic import read_facts, version_folder
from ptw.tokens.tokenizer import Tokenizer
from ptw.train.ledger import Ledger
from ptw.train.plan import Plan
from ptw.workspace import rooms
from ptw.workspace.manifest import ModelEntry

REWARD = "reward"  # before the name of a file of rewards/, in a record's digests


def facts_of(plan: Plan) -> dict[str, Any]:
    """All that a new run's record holds, by the record's own names."""
    commit, dirty = origin.commit_of(plan.root)
    return {
        "plan": plan.as_json(),
        "overrides": dict(plan.overrides),
        "commit": commit,
        "dirty": dirty,
        "digests": digests_of(plan),
        "versions": origin.versions(),
        "fingerprint": open_tokenizer(plan.workspace(), plan.tokenizer.name).fingerprint,
    }


def tokenizer_of(plan: Plan, ledger: Ledger) -> Tokenizer:
    """The plan's, opened by all workers together; its notes are said."""
    if not ledger.group.first:
        ledger.group.wait()  # the first worker builds what is built once
    tokenizer = open_tokenizer(plan.workspace(), plan.tokenizer.name)
    if ledger.group.first:
        ledger.group.wait()
    for note in tokenizer.notes:
        ledger.say(note)
    return tokenizer


def demand_tokenizer(plan: Plan, tokenizer: Tokenizer) -> None:
    """PtwError if what the tokenizer is made from has changed since the run began."""
    begun_with = record.read(plan.run_folder()).fingerprint
    if begun_with not in (None, tokenizer.fingerprint):
        raise PtwError(
            f"tokenizer {tokenizer.name} gives other ids than when this run began (fingerprint "
            f"{tokenizer.fingerprint[:12]}, then {str(begun_with)[:12]}): put back what it is made from, or "
            "start a new run"
        )


def demand_base(plan: Plan) -> None:
    """PtwError if the model that the run began with is not as it was then."""
    begun_with = record.read(plan.run_folder()).digests
    for name, digest_now in _model_digest(plan.root, plan.model).items():
        if begun_with.get(name) not in (None, digest_now):
            raise PtwError(
                f"{name} has changed since {plan.run_folder().name} began, and the adapter belongs to what "
                "it was: put it back"
            )


def digests_of(plan: Plan) -> dict[str, str]:
    """Of the content of datasets, recipe, models, and the rewards and files that settings name."""
    parts = [share.dataset for entry in plan.datasets.values() for share in entry.parts]
    datasets = {f"dataset {part.name}": digest(plan.root, part.source) for part in parts}
    recipe = hashlib.sha256(plan.file.read_bytes()).hexdigest()
    models = {name: value for entry in plan.models for name, value in _model_digest(plan.root, entry).items()}
    codes = {
        f"semantic_ids {name}": read_facts(version_folder(plan.root, name, entry.version or 0))["digest"]
        for name, entry in plan.semantic_ids.items()
    }
    return {**datasets, f"recipe {plan.file.stem}": recipe, **_named_digests(plan), **codes, **models}


def _named_digests(plan: Plan) -> dict[str, str]:
    """Of what is not there, none: the run says it."""
    there, named = rooms.files(plan.root, "rewards"), dict[str, Path]()
    for key in rooms.rewards_named(plan.file):
        names = plan.settings.get(key)
        for name in names if isinstance(names, list) else [names]:
            if name in there:
                named[f"{REWARD} {name}"] = there[str(name)]
    for key in rooms.files_named(plan.file):
        if plan.settings.get(key) is not None:
            named[f"{key} {plan.settings[key]}"] = plan.root / str(plan.settings[key])
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in named.items() if file.is_file()
    }


def _model_digest(root: Path, entry: ModelEntry) -> dict[str, str]:
    if entry.hf is None or entry.revision is not None:
        return {}  # a shape stands in the plan, a revision says it all
    total = hashlib.sha256()
    for path in sorted(resolve_source(entry.hf, None, root).glob("*.safetensors")):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return {f"model {entry.name}": total.hexdigest()}
