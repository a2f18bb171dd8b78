"""How does a model come to life: from a checkpoint, or from scratch?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.ports.bare import bare, replace_each
from ptw.ports.checkpoint import Checkpoint, demand_floats, open_checkpoint
from ptw.ports.grow import Growth, grown, grown_config
from ptw.ports.mapping import as_named, held_wide, padded_tables
from ptw.ports.parallel import copy_whole, held, local, materialise
from ptw.ports.port import Port, configure, find_port
from ptw.ports.scores import Scores, begun, classifier_config, demand_scores, giving_scores, stored_scores
from ptw.ports.weights import Absent, Operator, Stack, Tied
from ptw.workspace import rooms

# puts a model on several processes while it is still on the meta device; handed the module, port and Config
Spread = Callable[[nn.Module, Port | None, Any], None]
# changes a model before that: a port's on the meta device, for which it gives the operators that then fill it
Prepare = Callable[["Loaded"], Sequence[Operator]]


@dataclass(frozen=True)
class Loaded:
    """A model and what its export needs. Without a port it is HF's own class; `notes` say what is off.

    operators: the port's weight map, under the names of the checkpoint that the model came from.
    """

    module: nn.Module
    hf_config: Mapping[str, Any]
    port: Port | None
    notes: tuple[str, ...] = ()
    operators: tuple[Operator, ...] = ()


def load(
    folder: Path,
    root: Path | None,
    *,
    port: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    prepare: Prepare | None = None,
    spread: Spread | None = None,
    scores: Scores | None = None,
    growth: Growth | None = None,
) -> Loaded:
    """The model of a checkpoint, in `dtype` (default: the checkpoint's own).

    It gives scores in place of words where the checkpoint does, or where `scores` asks for new ones. Tensors
    go from disk into the port one operator at a time, so that the model never stands in memory twice. With
    `spread` a process keeps of each only what it holds, also of what `prepare` made of the model; without a
    port the model is loaded first. With `growth` it has rows for further tokens.
    PtwError names each unknown, missing and left-over tensor.
    """
    checkpoint = open_checkpoint(folder)
    found = port_for(root, port or checkpoint.hf_config["model_type"])
    stored = stored_scores(checkpoint.hf_config)
    demand_scores(folder, checkpoint.hf_config, scores)
    if found is None:
        from ptw.ports.fallback import load_reference

        reference, notes = load_reference(folder, dtype, growth, scores)
        hf_config = grown_config(checkpoint.hf_config, growth) if growth else checkpoint.hf_config
        hf_config = classifier_config(hf_config, scores) if scores else hf_config
        loaded = Loaded(reference, hf_config, None, notes)
        if prepare is not None:
            prepare(loaded)
        if spread is None:
            reference.to(device)
        else:  # which goes to the device block by block
            spread(reference, None, None)
        return loaded
    if growth is not None:
        checkpoint = grown(checkpoint, growth, found)
    hf_config = checkpoint.hf_config
    config = configure(found, hf_config)
    if labels := stored or (scores.labels if scores else None):
        found = giving_scores(found, labels)
    operators = as_named(found.weights(config), checkpoint.files)
    module = bare(found, config, dtype or stored_dtype(checkpoint), held_wide(operators))
    anew: Sequence[Operator] = operators
    if scores and not stored:
        anew = begun(operators, module, hf_config, scores)
    if prepare is not None:
        anew = prepare(Loaded(module, hf_config, found, operators=tuple(anew)))
    _give_memory(module, found, config, device, spread)
    fill(module, anew, checkpoint)
    hf_config = classifier_config(hf_config, scores) if scores else hf_config
    return Loaded(module, hf_config, found, operators=tuple(operators))


def create(
    hf_config: Mapping[str, Any],
    root: Path | None,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    spread: Spread | None = None,
    scores: Scores | None = None,
) -> Loaded:
    """A model from scratch, of words or scores: matrices normal by `initializer_range`, biases 0, norms 1."""
    found = find_port(root, hf_config["model_type"])
    if found is None:
        known = ", ".join(rooms.files(root, "models"))
        raise PtwError(
            f"models: model_type = {hf_config['model_type']!r} has no port, and from scratch needs one; "
            f"there are {known}"
        )
    config = configure(found, hf_config)
    if scores:
        found, hf_config = giving_scores(found, scores.labels), classifier_config(hf_config, scores)
    operators = found.weights(config)
    module = bare(found, config, dtype, held_wide(operators))
    _give_memory(module, found, config, device, spread)
    initialise(module, seed, float(hf_config.get("initializer_range", 0.02)), padded_tables(operators))
    return Loaded(module, dict(hf_config), found, operators=tuple(operators))


def _give_memory(
    module: nn.Module, port: Port, config: Any, device: torch.device | str, spread: Spread | None
) -> None:
    """Unset, for all of a model on the meta device or for what this process holds of it."""
    if spread is None:
        replace_each(module, (), device)
    else:
        spread(module, port, config)
        materialise(module, device)


def initialise(module: nn.Module, seed: int, spread: float, tables: Mapping[str, int]) -> None:
    """Draw every parameter anew; rows of tables beyond their vocabulary stay zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1:
                owner = module.get_submodule(name.rpartition(".")[0])
                parameter.fill_(0.0 if name.endswith("bias") else getattr(owner, "neutral", 1.0))
                continue
            drawn = torch.randn(parameter.shape, generator=generator) * spread
            drawn[tables.get(name, len(drawn)) :] = 0.0
            copy_whole(parameter, drawn)


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype that config.json declares, else that of the first tensor."""
    declared = checkpoint.hf_config.get("dtype") or checkpoint.hf_config.get("torch_dtype")
    if declared is None:
        return checkpoint.read(next(iter(checkpoint.files))).dtype
    dtype = getattr(torch, str(declared).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise PtwError(f"{checkpoint.folder}/config.json: dtype = {declared!r} is not a dtype of torch")
    return dtype


def fill(module: nn.Module, operators: Sequence[Operator], checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's tensors into a port's parameters; PtwError unless the map is complete and fits."""
    parameters = dict(module.named_parameters())
    _complete(operators, checkpoint, parameters)
    demand_floats(checkpoint, [name for operator in operators for name in operator.theirs])
    with torch.no_grad():
        for operator in operators:
            if isinstance(operator, Stack):
                _fill_stack(parameters[operator.ours_name], operator, checkpoint)
                continue
            for name, tensor in zip(operator.ours, _made(operator, checkpoint), strict=True):
                _demand_shape(operator, name, tensor.shape, parameters[name].shape, checkpoint)
                copy_whole(parameters[name], tensor)
    for operator in operators:
        if isinstance(operator, Tied) and operator.name in checkpoint.files:
            _equal_if_tied(operator, checkpoint)


def _made(operator: Operator, checkpoint: Checkpoint) -> list[Tensor]:
    """The parameters that an operator makes; PtwError where its tensors do not fit one another."""
    tensors = [checkpoint.read(name) for name in operator.theirs]
    try:
        return operator.from_hf(tensors)
    except (PtwError, RuntimeError, ValueError, IndexError) as error:
        shapes = ", ".join(
            f"{n} {tuple(t.shape)}" for n, t in zip(operator.theirs[:4], tensors, strict=False)
        )
        raise PtwError(f"{checkpoint.place(operator.theirs)}: {error} ({shapes})") from error


def _fill_stack(parameter: Tensor, operator: Stack, checkpoint: Checkpoint) -> None:
    """Expert by expert, and of these only what this process holds: a stack may be most of a block."""
    rows, *rest = held(parameter)
    for place, expert in enumerate(range(rows.start, rows.stop)):
        names = operator.theirs[expert * operator.parts : (expert + 1) * operator.parts]
        one = replace(operator, theirs=names)
        (stacked,) = _made(one, checkpoint)
        _demand_shape(one, operator.ours_name, stacked.shape[1:], parameter.shape[1:], checkpoint)
        local(parameter)[place].copy_(stacked[0][tuple(rest)])


def _demand_shape(
    operator: Operator, name: str, made: torch.Size, wanted: torch.Size, checkpoint: Checkpoint
) -> None:
    if made != wanted:
        raise PtwError(
            f"{checkpoint.place(operator.theirs)}: {', '.join(operator.theirs)} gives {name} the shape "
            f"{tuple(made)}, but config.json asks for {tuple(wanted)}"
        )


def to_hf(operators: Sequence[Operator], state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint tensors of a port's parameters, one operator at a time."""
    for operator in operators:
        made = operator.to_hf([state[name] for name in operator.ours])
        yield from zip(operator.theirs, made, strict=True)


def port_for(root: Path | None, name: str) -> Port | None:
    return None if name == rooms.WITHOUT_PORT else find_port(root, name)


def _complete(
    operators: Sequence[Operator], checkpoint: Checkpoint, parameters: Mapping[str, Tensor]
) -> None:
    read = [name for operator in operators for name in operator.theirs]
    made = [name for operator in operators for name in operator.ours]
    optional = {operator.name for operator in operators if isinstance(operator, Tied | Absent)}
    faults = {
        "missing from the checkpoint": sorted(set(read) - set(checkpoint.files)),
        "left over in the checkpoint": sorted(set(checkpoint.files) - set(read) - optional),
        "read twice by the port": sorted(
            {name for name in read if read.count(name) > 1} if _doubled(read) else ()
        ),
        "never filled in the port": sorted(set(parameters) - set(made)),
        "unknown to the port's model": sorted(set(made) - set(parameters)),
        "filled twice in the port": sorted(
            {name for name in made if made.count(name) > 1} if _doubled(made) else ()
        ),
    }
    lines = [f"  {len(names)} {fault}: {_some(names)}" for fault, names in faults.items() if names]
    if lines:
        left = faults["left over in the checkpoint"]
        raise PtwError(
            f"{checkpoint.place(left)}: the tensors are not those of the port\n" + "\n".join(lines)
        )


def _doubled(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _equal_if_tied(tied: Tied, checkpoint: Checkpoint) -> None:
    if not torch.equal(checkpoint.read(tied.name), checkpoint.read(tied.of)):
        raise PtwError(
            f"{checkpoint.place([tied.name])}: {tied.name} differs from {tied.of}, but config.json ties them "
            "(tie_word_embeddings = true); set it to false, or leave the tensor out"
        )
