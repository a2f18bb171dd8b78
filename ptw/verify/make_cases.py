"""Which cases is a port held to? The case maker's process: it draws them, writes them down and ends.

Imports transformers, to find out on the reference which fields matter; keeps none of its outputs.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ptw.errors import PtwError
from ptw.verify import reference
from ptw.verify.configurations import Configuration, Values, configurations
from ptw.verify.documents import inputs
from ptw.verify.exact import exact
from ptw.verify.informative import generator

MOVED = 1e-12  # relative: above rounding in fp64, below any effect
PROBED = 80  # tokens: beyond the original context of the cases that scale RoPE
THOROUGH = ("plain", "odd sizes", "switches", "windows")


def main(model_type: str, level: str, seed: int, folder: Path) -> None:
    """Write a folder a case into `folder`/given, for all to see, and what it is for into `folder`/drawn."""
    family = reference.config_class(model_type)
    draw = random.Random(f"{model_type}:{seed}")
    trials = Trials(family)
    with exact(), torch.no_grad():
        found = configurations(family, trials.moves, draw, fresh=level == "acceptance")
        for configuration in found:
            trials.demand(configuration)
        for number, configuration in enumerate(found):
            name = f"{number:02d}-{configuration.name.replace(' ', '-')}"
            _write(family, configuration, draw, folder, name)


class Trials:
    """The reference's output for values that were tried, so that each is computed once."""

    def __init__(self, family: Any) -> None:
        self.family = family
        self.outputs: dict[str, torch.Tensor | None] = {}
        self.errors: dict[str, str] = {}

    def demand(self, configuration: Configuration) -> None:
        """PtwError if the reference can't run it: too few cases must not look like a pass."""
        if self._output(configuration.values) is None:
            error = self.errors[_key(configuration.values)]
            raise PtwError(f"the reference can't run the case {configuration.name!r}: {error}")

    def moves(self, before: Values, after: Values) -> bool:
        """Whether both can be built and differ in output or in what their checkpoints hold."""
        first, second = self._output(before), self._output(after)
        if first is None or second is None:
            return False
        if first.shape != second.shape:
            return True
        return bool((first - second).norm() > MOVED * first.norm())

    def _output(self, values: Values) -> torch.Tensor | None:
        key = _key(values)
        if key not in self.outputs:
            self.outputs[key] = self._run(values)
        return self.outputs[key]

    def _run(self, values: Values) -> torch.Tensor | None:
        try:
            model = reference.drawn(self.family(**json.loads(json.dumps(values))), seed=0)
            ids = torch.randint(0, 60, (PROBED,), generator=generator(0, "probe"))
            return reference.forward(model, ids)
        except Exception as error:  # whatever the reference can't build or run is no case of this family
            self.errors[_key(values)] = f"{type(error).__name__}: {error}"
            return None


def _key(values: Values) -> str:
    return json.dumps(values, sort_keys=True)


def _write(family: Any, configuration: Configuration, draw: random.Random, folder: Path, name: str) -> None:
    given = folder / "given" / name
    checkpoint = given / "checkpoint"
    checkpoint.mkdir(parents=True)
    config = family(**json.loads(json.dumps(configuration.values)))
    seed = draw.getrandbits(48)
    _write_config(config, configuration, checkpoint / "config.json", whole=draw.random() < 0.5)
    model = reference.drawn(config, seed)
    save_file(reference.saved_tensors(model), checkpoint / "model.safetensors", metadata={"format": "pt"})
    save_file(inputs(config, draw, thorough=configuration.name in THOROUGH), given / "inputs.safetensors")
    case = {"name": configuration.name, "changes": configuration.changes, "seed": seed}
    (folder / "drawn").mkdir(exist_ok=True)
    (folder / "drawn" / f"{name}.json").write_text(json.dumps(case, indent=1))


def _write_config(config: Any, configuration: Configuration, file: Path, *, whole: bool) -> None:
    """As a checkpoint has it: every field or only those that differ, in the spelling of now or of before."""
    config.architectures = [reference.architecture(config)]
    config.dtype = "bfloat16"
    values = json.loads(config.to_json_string(use_diff=not whole))
    parameters = values.get("rope_parameters")
    if configuration.legacy and parameters and "rope_theta" in parameters:
        del values["rope_parameters"]
        values["rope_theta"] = parameters.pop("rope_theta")
        values["rope_scaling"] = parameters
    file.write_text(json.dumps(values, indent=1, sort_keys=True))


if __name__ == "__main__":
    for request in json.loads(sys.argv[1]):
        target = Path(request["folder"])
        try:
            main(request["model_type"], request["level"], request["seed"], target)
        except Exception as error:  # one family's fault is not the next one's
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            (target / "error").write_text(f"{type(error).__name__}: {error}")
