"""Which ports does a user mean? Those that are named, by their family or by a model of the workspace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ptw.errors import PtwError
from ptw.ports.source import resolve
from ptw.workspace import manifest, rooms


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
        places = ", ".join([*known, *models])
        raise PtwError(f"verify: {name!r} is neither a port nor a model of the workspace; known: {places}")
    model = models[name]
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
