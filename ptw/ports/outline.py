"""What are a model's modules and shapes, without its memory? For what can be told before it is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptw.errors import PtwError
from ptw.ports.bare import bare, replace_each
from ptw.ports.classifier import class_of
from ptw.ports.load import Loaded, port_for
from ptw.ports.mapping import held_wide
from ptw.ports.parallel import blocks
from ptw.ports.port import configure
from ptw.ports.scores import giving_scores, stored_scores
from ptw.ports.tensor_parallel import Region


def outline(
    hf_config: Mapping[str, Any], root: Path, *, port: str | None, dtype: torch.dtype, scores: int | None
) -> Loaded:
    """The model of a config.json as `ptw.ports.load` makes it, on the meta device; no checkpoint is read.

    scores: so many in place of words, where the config does not say how many itself.
    """
    labels = stored_scores(hf_config) or scores
    found = port_for(root, port or hf_config["model_type"])
    if found is None:
        return Loaded(_reference(hf_config, dtype), hf_config, None)
    config = configure(found, hf_config)
    if labels:
        found = giving_scores(found, labels)
    operators = found.weights(config)
    module = bare(found, config, dtype, held_wide(operators))
    return Loaded(module, hf_config, found, operators=tuple(operators))


def on(module: nn.Module, device: str) -> None:
    """In place of what lies on the meta device; under FakeTensorMode that takes no memory either."""
    replace_each(module, (), device)


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Parameters as FSDP gathers them to compute in a dtype."""
    _replace(module, {id(one): one.new_empty(one.shape, dtype=dtype) for one in module.parameters()})


def cut(module: nn.Module, regions: Sequence[Region], parts: int) -> None:
    """Leave of each parameter what one of `parts` processes holds that compute a block together."""
    left = {}
    for name, parameter in module.named_parameters():
        region = next((one for one in regions if one.owns(name)), None)
        split = None if region is None else region.splits.get(name.removeprefix(f"{region.path}."))
        if split is not None:
            shape = list(parameter.shape)
            shape[split] //= parts
            left[id(parameter)] = parameter.new_empty(shape)
    _replace(module, left)


def by_block(module: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters that FSDP gathers together: first those of no block, then each block's."""
    inside = [list(block.parameters()) for _, block in blocks(module)]
    seen = {id(one) for block in inside for one in block}
    return [[one for one in module.parameters() if id(one) not in seen], *inside]


def _replace(module: nn.Module, by_id: Mapping[int, torch.Tensor]) -> None:
    """One parameter may have several names."""
    made: dict[int, nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        if id(parameter) in by_id:
            new = made.setdefault(
                id(parameter), nn.Parameter(by_id[id(parameter)].detach(), parameter.requires_grad)
            )
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, new)


def _reference(hf_config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    from ptw.ports.fallback import REFUSALS, ReferenceModel

    family = str(hf_config["model_type"])
    values = {key: value for key, value in hf_config.items() if key != "model_type"}
    try:
        config = AutoConfig.for_model(family, **values)
        with torch.device("meta"):
            if stored_scores(hf_config):
                reference = class_of(family)(config)
            else:
                reference = AutoModelForCausalLM.from_config(config)
    except REFUSALS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = reason.split(". Should")[0]  # what follows names all models that there are
        raise PtwError(f"{family} has no port, and transformers can't make it: {reason}") from error
    return ReferenceModel(reference.to(dtype))
