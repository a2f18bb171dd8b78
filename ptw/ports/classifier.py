"""Which class of transformers gives a family's scores, and what brings one along where there is none?

That of every family is the same: its decoder, and a projection of the last token's hidden state. Where
transformers has none, it comes as a file beside the weights, which `trust_remote_code=True` loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptw.errors import PtwError

KIND = "ForSequenceClassification"
AUTO = "AutoModelForSequenceClassification"
FILE = "modeling_scores"

SOURCE = '''"""Scores of a text by {family}: transformers has no sequence classifier of it. Written by ptw."""

from transformers.modeling_layers import GenericForSequenceClassification
from {module} import {base}


class {name}(GenericForSequenceClassification, {base}):
    pass
'''


def in_transformers(family: str) -> str | None:
    """The name of its class there."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    found: str | None = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(family)
    return found


def class_config(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of the class: its name, and where it is if transformers has none."""
    name = in_transformers(str(hf_config["model_type"]))
    if name is not None:
        return {"architectures": [name]}
    name = _own_name(_base_of(str(hf_config["model_type"])))
    return {
        "architectures": [name],
        "auto_map": {**(hf_config.get("auto_map") or {}), AUTO: f"{FILE}.{name}"},
    }


def is_brought(hf_config: Mapping[str, Any]) -> bool:
    """Whether the folder holds the class itself."""
    return str((hf_config.get("auto_map") or {}).get(AUTO, "")).startswith(f"{FILE}.")


def bring(hf_config: Mapping[str, Any], folder: Path) -> None:
    """Write the class into the folder where its config.json says that it is there."""
    if is_brought(hf_config):
        (folder / f"{FILE}.py").write_text(_source(str(hf_config["model_type"])), encoding="utf-8")


def class_of(family: str) -> Any:
    """The class itself, of transformers or made as the file would make it."""
    import transformers

    name = in_transformers(family)
    if name is not None:
        return getattr(transformers, name)
    scope: dict[str, Any] = {"__name__": FILE}
    exec(_source(family), scope)
    return scope[_own_name(_base_of(family))]


def _source(family: str) -> str:
    base = _base_of(family)
    return SOURCE.format(family=family, module=base.__module__, base=base.__name__, name=_own_name(base))


def _own_name(base: type) -> str:
    return base.__name__.removesuffix("PreTrainedModel") + KIND


def _base_of(family: str) -> type:
    """What all classes of the family inherit from, and know its weights by."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)
    if not isinstance(name, str):
        raise PtwError(f"transformers has no decoder of {family}, so nothing else would load scores of it")
    found: type = next(
        one for one in getattr(transformers, name).__mro__ if one.__name__.endswith("PreTrainedModel")
    )
    return found
