"""What exactly will be trained, from what, with which settings? Resolved once, then frozen."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.runs.record import CIRCUMSTANCES, flat
from ptw.tokens.semantic import chosen_version, demand_as_declared, read_facts, version_folder
from ptw.workspace import rooms
from ptw.workspace.manifest import (
    ClusterEntry,
    DatasetEntry,
    ModelEntry,
    SemanticIdsEntry,
    Share,
    TokenizerEntry,
    Workspace,
    tokenizer_entry,
)
from ptw.workspace.problem import hint_of

LOCAL = ClusterEntry("local")
# what may differ when a run goes on: where it trains changes no number but by rounding, and the recipe's
# content is held by its digest, wherever the file lies
FREE = (*CIRCUMSTANCES, "cluster")
FREE_SETTINGS = (
    *("keep_checkpoints", "keep_checkpoint_every"),  # which stay on the disk
    *("concurrency", "timeout_seconds", "tries", "budget_usd"),  # how an endpoint is asked
    *("reward_seconds", "rollout_seconds"),  # how long a run has patience
    "rows_at_once",  # how a step is computed, which is the same but for rounding
    *("on_nan", "on_spike", "spike_sigmas"),  # what becomes of a step that would end the run
)
FREE_OF_A_MODEL = ("endpoint", "api_key_env")  # where it is served


@dataclass(frozen=True)
class Plan:
    """All that a worker needs; JSON both ways."""

    root: Path
    recipe: str  # its name in workspace.toml
    file: Path  # of the recipe
    model: ModelEntry
    tokenizer: TokenizerEntry
    dataset: str
    eval_dataset: str | None
    datasets: Mapping[str, DatasetEntry]  # these two, and those that the tokenizer learns from
    cluster: ClusterEntry
    settings: Mapping[str, object]  # every field of the recipe's Settings
    overrides: Mapping[str, str]
    folder: Path | None = None  # of the run, once it has one
    roles: Mapping[str, ModelEntry] = field(default_factory=dict)  # the other models that the recipe asks for
    semantic_ids: Mapping[str, SemanticIdsEntry] = field(default_factory=dict)  # each with its version
    threads: int | None = None  # a worker's; None leaves it to torch
    launch: str = ""  # which launch of the run this is, where workers may be started again
    host: str = ""  # where its driver is
    tracking: Mapping[str, str | bool] = field(default_factory=dict)

    @property
    def models(self) -> list[ModelEntry]:
        """All of them, the one that learns first."""
        return [self.model, *self.roles.values()]

    def workspace(self) -> Workspace:
        """The part of the workspace that this plan speaks of."""
        return Workspace(
            root=self.root,
            name=self.root.name,
            models={self.model.name: self.model},
            tokenizers={self.tokenizer.name: self.tokenizer},
            datasets=self.datasets,
            clusters={},
            recipes={},
            semantic_ids=self.semantic_ids,
        )

    def run_folder(self) -> Path:
        assert self.folder is not None, "the run has no folder yet"
        return self.folder

    def as_json(self) -> dict[str, Any]:
        values: dict[str, Any] = _plain(self)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Plan":
        datasets = {name: _dataset(entry) for name, entry in values["datasets"].items()}
        return cls(
            **{
                **values,
                "root": Path(values["root"]),
                "file": Path(values["file"]),
                "folder": None if values["folder"] is None else Path(values["folder"]),
                "model": ModelEntry(**values["model"]),
                "roles": {role: ModelEntry(**entry) for role, entry in values.get("roles", {}).items()},
                "tokenizer": tokenizer_entry(**values["tokenizer"]),
                "semantic_ids": {
                    name: SemanticIdsEntry(**entry) for name, entry in values.get("semantic_ids", {}).items()
                },
                "cluster": ClusterEntry(**values["cluster"]),
                "datasets": datasets,
            }
        )


def resolve(workspace: Workspace, recipe: str, overrides: Mapping[str, str]) -> Plan:
    """The plan of this recipe with `--set` overrides; PtwError names an unknown recipe, key or value."""
    entry = workspace.recipes.get(recipe)
    if entry is None:
        hint = hint_of(recipe, list(workspace.recipes), "recipes")
        raise PtwError(f"workspace.toml: no recipe named {recipe!r}; {hint}")
    file = rooms.files(workspace.root, "recipes")[entry.recipe]
    tokenizer = workspace.tokenizers[entry.tokenizer]
    used = {entry.dataset, entry.eval_dataset, tokenizer.learn_from, tokenizer.merges_from} - {None}
    return Plan(
        root=workspace.root,
        recipe=recipe,
        file=file,
        model=workspace.models[entry.model],
        roles={role: workspace.models[name] for role, name in entry.roles.items()},
        tokenizer=tokenizer,
        dataset=entry.dataset,
        eval_dataset=entry.eval_dataset,
        datasets={name: dataset for name, dataset in workspace.datasets.items() if name in used},
        cluster=LOCAL if entry.cluster is None else workspace.clusters[entry.cluster],
        settings=settings_of(file, entry.settings, overrides),
        overrides=dict(overrides),
        tracking=dict(workspace.tracking),
        semantic_ids={name: _pinned(workspace, name) for name in tokenizer.semantic_ids},
    )


def demand_sense(plan: Plan) -> None:
    """PtwError names a setting whose value can't be. It runs the recipe's file, which may import torch."""
    settings = rooms.load(plan.file).Settings(**plan.settings)
    demand = getattr(settings, "demand_sense", None)
    if demand is not None:  # a recipe without it is refused where it trains
        demand()


def describe(plan: Plan) -> str:
    """What `--dry-run` prints: all that would happen."""
    cluster = plan.cluster
    devices = f"{cluster.workers} worker(s), {cluster.gpus_per_worker:g} GPU(s) each"
    dealt = [
        f"{key} = {value}"
        for key in ("replicas", "tensor", "experts")
        if (value := getattr(cluster, key)) > 1
    ]
    dealt += ["recompute"] if cluster.recompute else []
    where = ", ".join([cluster.address or "this machine", devices, *dealt])
    held_out = [("eval_dataset", plan.eval_dataset)] if plan.eval_dataset else []
    rows = [
        ("recipe", f"{plan.recipe} ({plan.file})"),
        ("model", _entry(plan.model)),
        *((role, _entry(model)) for role, model in plan.roles.items()),
        ("tokenizer", _entry(plan.tokenizer)),
        *(("semantic_ids", _entry(entry)) for entry in plan.semantic_ids.values()),
        *_described("dataset", plan.datasets[plan.dataset]),
        *(row for key, name in held_out for row in _described(key, plan.datasets[name])),
        ("cluster", where),
        *([("tracking", json.dumps(dict(plan.tracking)))] if plan.tracking else []),
        ("folder", str(plan.folder or plan.root / "runs" / f"{plan.recipe}-<NNN>")),
    ]
    settings = [
        (f"  {key}", f"{json.dumps(value)}{'  (--set)' if key in plan.overrides else ''}")
        for key, value in plan.settings.items()
    ]
    return "\n".join(f"{name:<16} {text}" for name, text in [*rows, ("settings", ""), *settings])


def differences(old: Plan, new: Plan) -> list[str]:
    """`key: old -> new` for all that a resumed run may not change."""
    before, after = (flat({k: v for k, v in p.as_json().items() if k not in FREE}) for p in (old, new))
    free = {f"settings.{name}" for name in FREE_SETTINGS} | {f"model.{name}" for name in FREE_OF_A_MODEL}
    keys = sorted((before.keys() | after.keys()) - free)
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def gone_on(old: Plan, new: Plan) -> Plan:
    """The plan of a run that goes on: as it began, but for what is free."""
    freed = {name: value for name, value in new.settings.items() if name in FREE_SETTINGS}
    moved = {name: getattr(new.model, name) for name in FREE_OF_A_MODEL}
    return dataclasses.replace(
        old,
        model=dataclasses.replace(old.model, **moved),
        root=new.root,
        file=new.file,
        cluster=new.cluster,
        tracking=new.tracking,
        settings={**old.settings, **freed},
    )


def settings_of(file: Path, given: Mapping[str, object], overrides: Mapping[str, str]) -> dict[str, object]:
    """All settings of a recipe's file: its defaults, what workspace.toml gives, and `--set` above both.

    PtwError for a key that it lacks, a value that can't be, and one that has to be given and is not.
    """
    fields = rooms.settings_fields(file)
    settings = {name: field.default for name, field in fields.items() if not field.required} | dict(given)
    for key, text in overrides.items():
        if key not in fields:
            hint = hint_of(key, list(fields), "settings")
            raise PtwError(f"--set {key}={text}: the recipe {file.stem} has no such setting; {hint}")
        try:
            settings[key] = fields[key].parse(text)
        except ValueError as error:
            raise PtwError(f"--set {key}={text}: {error}") from error
    missing = [name for name, field in fields.items() if field.required and name not in settings]
    if missing:
        raise PtwError(
            f"{file}: Settings.{missing[0]} has no default: set it in workspace.toml or with --set"
        )
    return settings


def _pinned(workspace: Workspace, name: str) -> SemanticIdsEntry:
    """With the version that is the newest now: one that is built later is not the run's.

    PtwError where that was built by another declaration; a version that is named is meant.
    """
    entry = workspace.semantic_ids[name]
    version = chosen_version(workspace.root, entry)
    if entry.version is None:
        demand_as_declared(entry, read_facts(version_folder(workspace.root, name, version)))
    return dataclasses.replace(entry, version=version)


def _dataset(values: Mapping[str, Any]) -> DatasetEntry:
    mix = tuple(Share(_dataset(share["dataset"]), share["weight"]) for share in values.get("mix", ()))
    return DatasetEntry(**{**values, "source": tuple(values["source"]), "mix": mix})


def _described(key: str, dataset: DatasetEntry) -> list[tuple[str, str]]:
    """A dataset in one line, a mix in one for each part."""
    if not dataset.mix:
        return [(key, _entry(dataset))]
    parts = [(f"  {share.weight:g}", _entry(share.dataset)) for share in dataset.mix]
    return [(key, f"{dataset.name}: a mix, in shares of the samples"), *parts]


def _entry(entry: Any) -> str:
    values = _plain(entry)
    shown = ", ".join(
        f"{key} = {json.dumps(value)}" for key, value in values.items() if key != "name" and value
    )
    return f"{entry.name}: {shown}"


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
