"""Which cases is a port held to? Drawn in the reference's process, which is asked about them much later.

Imports transformers, to find out on the reference which fields matter; keeps none of its outputs.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ptw.ports.adapting import has_experts
from ptw.verify.drawing import documents, ropes
from ptw.verify.drawing.adapter import write_adapter
from ptw.verify.drawing.audit import Weights, audit
from ptw.verify.drawing.configurations import FIELD, THOROUGH, Configuration, Found, configurations
from ptw.verify.drawing.decided import forced, is_decided, precise
from ptw.verify.drawing.fields import family_fields
from ptw.verify.drawing.informative import outliers
from ptw.verify.drawing.trials import TIED, TOKENS, Trials, Values
from ptw.verify.exact import exact
from ptw.verify.reference import hf

NAME_LENGTH = 60
TRIES = 8
REQUIRED = ("plain", "odd sizes")  # no port may refuse a size


def main(model_type: str, level: str, seed: int, folder: Path) -> None:
    """Write a folder a case into `folder`/given, for all to see, and what it is for into `folder`/drawn."""
    family = hf.config_class(model_type)
    draw = random.Random(f"{model_type}:{seed}")
    # odd: what is kept in fp32 is spread around zero (see informative)
    trials = Trials(family, draw.getrandbits(48) | 1)
    with exact(), torch.no_grad():
        found = configurations(trials, draw, fresh=level == "acceptance")
        for configuration in found.configurations:
            if configuration.refused:
                continue
            trials.demand(configuration.values, configuration.name)
        _Writer(trials, draw, folder, found).write()


class _Writer:
    """One family's cases on their way into files."""

    def __init__(self, trials: Trials, draw: random.Random, folder: Path, found: Found) -> None:
        self.trials, self.draw, self.folder, self.found = trials, draw, folder, found
        self.weights = Weights()
        thorough = [one.values for one in found.configurations if one.kind == THOROUGH]
        self.experts = any(has_experts(trials.model(values)) for values in thorough)
        (folder / "drawn").mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        cases = {}
        for number, configuration in enumerate(self.found.configurations):
            plain = re.sub(r"[^A-Za-z0-9_.=-]+", "-", configuration.name)[:NAME_LENGTH].strip("-")
            name = f"{number:02d}-{plain}"
            checkpoint = self.folder / "given" / name / "checkpoint"
            checkpoint.mkdir(parents=True)
            write = self._field if configuration.kind == FIELD else self._case
            seed = write(name, configuration, checkpoint)
            self._drawn(name, configuration, seed)
            cases[name] = configuration.fields
        fields = family_fields(self.trials.family, self.found.sizes.plain)
        said = audit(self.found.search, fields, cases, self.weights)
        (self.folder / "audit.json").write_text(json.dumps(said, indent=1))

    def _drawn(self, name: str, configuration: Configuration, seed: int) -> None:
        said = {
            "name": configuration.name,
            "kind": configuration.kind,
            "changes": _nested(configuration.changes),
            "seed": seed,
            "required": configuration.name in REQUIRED,
            "unverifiable": configuration.refused,
        }
        (self.folder / "drawn" / f"{name}.json").write_text(json.dumps(said, indent=1))

    def _field(self, name: str, configuration: Configuration, checkpoint: Path) -> int:
        """The same weights and tokens in all: what differs in output differs by this change."""
        # of what the reference can't be run with only the configuration is looked at
        values = self.found.search.base if configuration.refused else configuration.values
        outcome = self.trials.outcome(values)
        ids = self._long(values, configuration.length) if configuration.length else self.trials.ids
        _write_config(checkpoint, _config(self.trials, configuration.values), configuration, "given")
        saved = self.trials.published(values) if configuration.published else outcome.saved
        save_file(saved, checkpoint / "model.safetensors", metadata={"format": "pt"})
        inputs = {"ids": ids, "lengths": torch.tensor([len(ids)])}
        save_file(inputs, checkpoint.parent / "inputs.safetensors")
        self._look(name, values, outcome.saved)
        return self.trials.seed

    def _long(self, values: Values, length: int) -> Tensor:
        """Tokens in which no choice of experts is close."""
        model, routes = self.trials.model(values), self.trials.outcome(values).routed
        for _ in range(TRIES):
            ids = torch.tensor([self.draw.randrange(TOKENS) for _ in range(length)])
            if not routes or is_decided(model, ids.tolist(), TIED):
                break
        return ids

    def _look(self, name: str, values: Values, saved: dict[str, Tensor]) -> None:
        """At weights that only this case has."""
        if not self.weights.knows(saved):
            model = self.trials.model(values)
            self.weights.look(name, model, saved, [self.trials.ids])

    def _case(self, name: str, configuration: Configuration, checkpoint: Path) -> int:
        draw, thorough = self.draw, configuration.kind == THOROUGH
        config = _config(self.trials, configuration.values)
        # of the thorough ones every other is even
        seed = draw.getrandbits(48) & ~1 | int(name[:2]) % 2
        form = "given" if configuration.name == "plain" else draw.choice(("given", "whole", "differing"))
        _write_config(checkpoint, config, configuration, form)
        model = hf.drawn(config, seed)
        if configuration.outliers:
            outliers(model)
        saved = hf.saved_tensors(model)
        save_file(saved, checkpoint / "model.safetensors", metadata={"format": "pt"})
        routes = self.trials.outcome(configuration.values).routed

        def good(tokens: list[int]) -> bool:
            return not routes or is_decided(model, tokens, TIED)

        inputs = documents.inputs(config, draw, thorough=thorough, good=good)
        if thorough:
            inputs |= self._more(config, model, routes)
            self.weights.look(name, model, saved, [inputs["nudged"]])
            folder = checkpoint.parent / "adapter"
            write_adapter(model, seed, inputs["nudged"], folder, experts=self.experts)
        save_file(inputs, checkpoint.parent / "inputs.safetensors")
        return seed

    def _more(self, config: Any, model: nn.Module, routes: bool) -> dict[str, Tensor]:
        vocabulary = int(config.vocab_size)
        return {
            **documents.gradients(config, self.draw),
            **precise(model, vocabulary, self.draw, routes=routes),
            **forced(model, vocabulary, self.draw, routes=routes),
        }


def _config(trials: Trials, values: Values) -> Any:
    return trials.family(**json.loads(json.dumps(values)))


def _write_config(folder: Path, config: Any, configuration: Configuration, form: str) -> None:
    """As a checkpoint has it: in this form and spelling if that says the same, else as it was given."""
    says = None if form == "given" and not configuration.spelling else _resolved(config)
    for values in _forms(config, configuration, form):
        values |= {
            "model_type": config.model_type,
            "architectures": [hf.architecture(config)],
            "dtype": "bfloat16",
        }
        text = json.dumps(values, indent=1, sort_keys=True)
        if form == "given" and not configuration.spelling:
            break
        if _resolved(type(config).from_dict(json.loads(text))) == says:
            break
    (folder / "config.json").write_text(text)


def _forms(config: Any, configuration: Configuration, form: str) -> Iterator[Values]:
    """Every field, those that differ from the class's own, or what was given; of now or of before."""
    given = json.loads(json.dumps(configuration.values))
    whole = {"given": None, "whole": False, "differing": True}[form]
    written = given if whole is None else json.loads(config.to_json_string(use_diff=whole))
    for values in (written, given):
        yield from ropes.older(values, configuration.spelling)
    yield written
    yield given


def _resolved(config: Any) -> Values:
    """What a configuration comes down to, however it was spelled."""
    found: Values = json.loads(config.to_json_string(use_diff=False))
    for name in ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path"):
        found.pop(name, None)
    rope = found.get("rope_parameters") or {}
    for one in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        one.pop("type", None)
    return found


def _nested(changes: Values) -> Values:
    """Without the dots: each name stands by itself."""
    found: Values = {}
    for path, value in changes.items():
        place, *below = path.split(".")
        held = found
        for name in below:
            inner = held.get(place)
            held[place] = dict(inner) if isinstance(inner, dict) else {}
            held, place = held[place], name
        held[place] = value
    return found
