"""How does a port give scores of a text in place of words? As transformers' sequence classifiers do.

Their scores are a projection of the hidden state of a document's last token; the word head is gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.nn.head import Head
from ptw.ports.mapping import names_of
from ptw.ports.port import Port
from ptw.ports.weights import Absent, Operator, Same

SCORES = "score.weight"
KIND = "ForSequenceClassification"
USUAL_SPREAD = 0.02


@dataclass(frozen=True)
class Scores:
    """So many scores, begun anew from this seed where a checkpoint has none.

    pad_id: without one transformers can't tell which token of a padded text is the last.
    """

    labels: int
    seed: int = 0
    pad_id: int | None = None


@dataclass(frozen=True)
class New:
    """Scores that no checkpoint has yet: drawn, the same on every process."""

    scores: Scores
    width: int
    spread: float
    theirs: tuple[str, ...] = ()
    ours: tuple[str, ...] = (SCORES,)

    def from_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.scores.seed)
        return [torch.randn(self.scores.labels, self.width, generator=generator) * self.spread]

    def to_hf(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return []


def stored_scores(hf_config: Mapping[str, Any]) -> int | None:
    """How many scores a checkpoint gives; None: it gives words."""
    architecture = str((hf_config.get("architectures") or [""])[0])
    if not architecture.endswith(KIND):
        return None
    return len(hf_config["id2label"]) if "id2label" in hf_config else int(hf_config.get("num_labels", 2))


def demand_scores(folder: Path, stored: int | None, wanted: Scores | None, has_port: bool) -> None:
    """PtwError where a checkpoint gives other scores than are wanted, or where no port gives any."""
    if not has_port and (stored or wanted):
        raise PtwError(f"{folder}: a model that gives scores needs a port, and there is none of this family")
    if stored and wanted and stored != wanted.labels:
        raise PtwError(
            f"{folder}: it gives {stored} scores of a text, and the recipe learns {wanted.labels}; begin "
            "with a model of words, or with one of as many scores"
        )


def giving_scores(port: Port, labels: int) -> Port:
    """The port with so many scores: `model.head().logits(hidden)` gives them, of any token."""

    def build(config: Any) -> nn.Module:
        module = port.Model(config)
        width = module.head().weight_VD.shape[1]  # type: ignore[operator]
        for name in own_head(module):
            owner, _, attribute = name.rpartition(".")
            module.get_submodule(owner).register_parameter(attribute, None)
        module.score = nn.Linear(width, labels, bias=False)
        module.head = lambda: Head(module.score.weight, labels)  # type: ignore[assignment]
        return module

    def weights(config: Any) -> list[Operator]:
        with torch.device("meta"):
            gone = own_head(port.Model(config))
        operators = port.weights(config)
        dropped = [Absent(name) for one in operators if gone & set(one.ours) for name in names_of(one)]
        return [*(one for one in operators if not gone & set(one.ours)), *dropped, Same(SCORES)]

    return dataclasses.replace(port, Model=build, weights=weights)


def begun(
    operators: Sequence[Operator], module: nn.Module, hf_config: Mapping[str, Any], wanted: Scores
) -> list[Operator]:
    """The operators with new scores in place of stored ones."""
    width = module.get_parameter(SCORES).shape[1]
    spread = float(hf_config.get("initializer_range") or USUAL_SPREAD)
    return [*(one for one in operators if SCORES not in one.ours), New(wanted, width, spread)]


def classifier_config(hf_config: Mapping[str, Any], wanted: Scores) -> dict[str, Any]:
    """The config.json of the classifier; PtwError: transformers has none of this family."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    family = str(hf_config["model_type"])
    name = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(family)
    if name is None:
        raise PtwError(
            f"transformers has no {KIND} of {family}, so that scores of it would be a model that nothing "
            "else loads; take a model of another family"
        )
    names = [f"LABEL_{at}" for at in range(wanted.labels)]
    return {
        **hf_config,
        "architectures": [name],
        "id2label": {str(at): label for at, label in enumerate(names)},
        "label2id": {label: at for at, label in enumerate(names)},
        "pad_token_id": hf_config.get("pad_token_id") if wanted.pad_id is None else wanted.pad_id,
    }


def own_head(module: nn.Module) -> set[str]:
    """The names of the word head's matrix, where it is not the table of embeddings too."""
    matrix = module.head().weight_VD  # type: ignore[operator]
    named = module.named_parameters(remove_duplicate=False)
    names = {name for name, parameter in named if parameter is matrix}
    tables = {id(one.weight) for one in module.modules() if isinstance(one, nn.Embedding)}
    return set() if id(matrix) in tables else names
