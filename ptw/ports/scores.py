"""How does a port give scores of a text in place of words? As transformers' sequence classifiers do.

Their scores are a projection of the hidden state of a document's last token; the word head is gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from ptw.errors import PtwError
from ptw.nn.head import Head
from ptw.ports.classifier import KIND, class_config
from ptw.ports.mapping import Drawn, names_of
from ptw.ports.port import Port
from ptw.ports.weights import Absent, Operator, Same

SCORES = "score.weight"
OF_REFERENCE = f"reference.{SCORES}"  # where Hugging Face's own class has it
USUAL_SPREAD = 0.02
UNNAMED = "LABEL_"

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]


@dataclass(frozen=True)
class Scores:
    """So many scores, begun anew from this seed where a checkpoint has none.

    pad_id: without one transformers can't tell which token of a padded text is the last. problem: what the
    scores are, by transformers' word for it: one of the labels, any of them, or numbers.
    """

    labels: int
    seed: int = 0
    pad_id: int | None = None
    names: tuple[str, ...] = ()  # of the labels; without: LABEL_0, LABEL_1, ...
    problem: Problem | None = None


def stored_scores(hf_config: Mapping[str, Any]) -> int | None:
    """How many scores a checkpoint gives; None: it gives words."""
    architecture = str((hf_config.get("architectures") or [""])[0])
    if not architecture.endswith(KIND):
        return None
    return len(hf_config["id2label"]) if "id2label" in hf_config else int(hf_config.get("num_labels", 2))


def stored_names(hf_config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a checkpoint's labels, in the order of its scores; none where they are numbered only."""
    names = {int(at): str(name) for at, name in (hf_config.get("id2label") or {}).items()}
    found = tuple(name for _, name in sorted(names.items()))
    return () if all(name == f"{UNNAMED}{at}" for at, name in enumerate(found)) else found


def problem_of(hf_config: Mapping[str, Any]) -> Problem | None:
    """What the scores of a checkpoint are, where it says so."""
    return cast("Problem | None", hf_config.get("problem_type")) if stored_scores(hf_config) else None


def demand_scores(folder: Path, hf_config: Mapping[str, Any], wanted: Scores | None) -> None:
    """PtwError where a checkpoint gives other scores than are wanted."""
    stored = stored_scores(hf_config)
    if not stored or wanted is None:
        return
    if stored != wanted.labels:
        raise PtwError(
            f"{folder}: it gives {stored} scores of a text, and the recipe learns {wanted.labels}; begin "
            "with a model of words, or with one of as many scores"
        )
    problem, names = problem_of(hf_config), stored_names(hf_config)
    if problem != wanted.problem and None not in (problem, wanted.problem):
        raise PtwError(
            f"{folder}: its scores are of {problem}, and the recipe's of {wanted.problem}; begin with a "
            "model of words, or set another head"
        )
    if names and wanted.names and names != wanted.names:
        at = next(at for at, pair in enumerate(zip(names, wanted.names, strict=True)) if pair[0] != pair[1])
        raise PtwError(
            f"{folder}: its label {at} is {names[at]!r}, and the recipe's is {wanted.names[at]!r}; begin "
            "with a model of words, or give the labels in the model's order"
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
    return [*(one for one in operators if SCORES not in one.ours), new_scores(hf_config, wanted, width)]


def new_scores(hf_config: Mapping[str, Any], wanted: Scores, width: int) -> Drawn:
    generator = torch.Generator().manual_seed(wanted.seed)
    spread = float(hf_config.get("initializer_range") or USUAL_SPREAD)
    return Drawn(SCORES, torch.randn(wanted.labels, width, generator=generator) * spread)


def classifier_config(hf_config: Mapping[str, Any], wanted: Scores) -> dict[str, Any]:
    """The config.json of the classifier; what a checkpoint of scores says already stays."""
    names = wanted.names or stored_names(hf_config)
    names = names or tuple(f"{UNNAMED}{at}" for at in range(wanted.labels))
    problem = wanted.problem or hf_config.get("problem_type")
    return {
        **hf_config,
        **class_config(hf_config),
        "id2label": {str(at): label for at, label in enumerate(names)},
        "label2id": {label: at for at, label in enumerate(names)},
        "pad_token_id": hf_config.get("pad_token_id") if wanted.pad_id is None else wanted.pad_id,
        **({} if problem is None else {"problem_type": problem}),
    }


def scores_in(module: nn.Module) -> str | None:
    """The name of the projection to scores, where the model has one."""
    named = (name for name, _ in module.named_parameters())
    return next((name for name in named if name in (SCORES, OF_REFERENCE)), None)


def own_head(module: nn.Module) -> set[str]:
    """The names of the word head's matrix, where it is not the table of embeddings too."""
    matrix = module.head().weight_VD  # type: ignore[operator]
    named = module.named_parameters(remove_duplicate=False)
    names = {name for name, parameter in named if parameter is matrix}
    tables = {id(one.weight) for one in module.modules() if isinstance(one, nn.Embedding)}
    return set() if id(matrix) in tables else names
