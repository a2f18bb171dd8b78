"""Which ports, tokenizers and runs does a user mean? All that is declared, or what bears a name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ptw.errors import PtwError
from ptw.ports.source import resolve
from ptw.runs.record import MODEL, RunRecord, list_runs
from ptw.workspace import manifest, rooms
from ptw.workspace.document import FILE


@dataclass(frozen=True)
class Chosen:
    """What is to be verified. Of a run it is the exported tokenizer."""

    ports: dict[str, Path] = field(default_factory=dict)  # model_type -> file
    tokenizers: tuple[str, ...] = ()  # by their names in workspace.toml
    runs: tuple[RunRecord, ...] = ()


def chosen(root: Path, names: Sequence[str], *, tokenizers_only: bool = False) -> Chosen:
    """What bears these names, or all ports and tokenizers; PtwError for a name that nothing bears."""
    if not names:
        declared = tuple(manifest.read(root).tokenizers) if (root / FILE).exists() else ()
        if tokenizers_only and not declared:
            raise PtwError(f"{FILE}: there is no tokenizer to verify; declare one: [tokenizers.NAME]")
        return Chosen({} if tokenizers_only else choose(root, ()), declared)
    known = {} if tokenizers_only else rooms.files(root, "models")
    rest = [name for name in names if name not in known]
    workspace = manifest.read(root) if rest else None
    tokenizers = [name for name in rest if workspace is not None and name in workspace.tokenizers]
    runs = {name: _run(root, name) for name in rest if name not in tokenizers}
    found = {name: run for name, run in runs.items() if run is not None}
    ports = [name for name in names if name in known]
    if workspace is not None and not tokenizers_only:
        ports += [name for name in rest if name in workspace.models and name not in ports]
    for name in rest:
        if name not in (*tokenizers, *found, *ports):
            raise _unknown(name, [*known, *workspace.models, *workspace.tokenizers] if workspace else [])
    return Chosen(choose(root, ports) if ports else {}, tuple(tokenizers), tuple(found.values()))


def _run(root: Path, name: str) -> RunRecord | None:
    """The run of this name, or the newest of this recipe, that has an exported model."""
    named = [record for record in list_runs(root) if name in (record.name, record.recipe)]
    whole = [record for record in named if (record.folder / MODEL).is_dir() and "tokenizer" in record.plan]
    exact = [record for record in whole if record.name == name]
    return (exact or whole)[-1] if whole else None


def _unknown(name: str, known: Sequence[str]) -> PtwError:
    return PtwError(
        f"verify: {name!r} is neither a port nor a model of the workspace, nor a tokenizer, nor a run with a "
        f"model; known: {', '.join(known)}"
    )


def choose(root: Path | None, names: Sequence[str]) -> dict[str, Path]:
    """model_type -> file of the ports to verify."""
    known = rooms.files(root, "models")
    if not names:
        if not known:
            raise PtwError("models: there is no port to verify; add models/<model_type>.py")
        return dict(known)
    types = [name if name in known else _port_of_model(root, name, known) for name in names]
    return {model_type: known[model_type] for model_type in types}


def _port_of_model(root: Path | None, name: str, known: Mapping[str, Path]) -> str:
    models = manifest.read(root).models if root is not None and (root / "workspace.toml").exists() else {}
    if name not in models:
        raise _unknown(name, [*known, *models])
    model = models[name]
    if model.endpoint is not None:
        raise PtwError(f"workspace.toml: models.{name}: an endpoint serves it, on no port of ours")
    model_type = model.port or (model.config or {}).get("model_type")
    if model_type is None and model.hf is not None and root is not None:
        config = resolve(model.hf, model.revision, root) / "config.json"
        try:
            model_type = json.loads(config.read_text())["model_type"]
        except (OSError, ValueError, KeyError) as error:
            raise PtwError(f"{config}: model_type can't be read: {error!r}") from error
    if model_type not in known:
        raise PtwError(
            f"workspace.toml: models.{name}: there is no port of {model_type!r} to verify: "
            "it runs on Hugging Face's own class"
        )
    return str(model_type)
