"""How do several processes compute a block between them? Each takes some heads, and a part of each MLP.

A **region** is a module whose projections out of the hidden states ("columns") and back into them ("row")
are linear layers that are known by name. Into it goes what every process has whole; in it, each computes
with its own heads; what comes out is summed (Shoeybi et al., 2019). All else is computed by every process
alike. A port knows nothing of it: its heads fall out of the shape of its projections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache as once
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ptw.errors import PtwError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

QUERIES, KEYS = "num_attention_heads", "num_key_value_heads"
# out of the hidden states, and what of the Config is divided; None: their own rows, which nothing groups
COLUMNS = {
    "q_proj": QUERIES,
    "q_b_proj": QUERIES,
    "kv_b_proj": QUERIES,
    "query_key_value": QUERIES,
    "k_proj": KEYS,
    "v_proj": KEYS,
    "gate_proj": None,
    "up_proj": None,
    "dense_h_to_4h": None,
    "c_fc": None,
    "fc1": None,
}
ROWS = ("o_proj", "dense", "down_proj", "dense_4h_to_h", "c_proj", "fc2")
WHOLE = ("q_a_proj", "kv_a_proj_with_mqa")  # to the latents that all heads come from


@dataclass(frozen=True)
class Region:
    """A module that is computed in parts; splits: along which dimension each of its parameters is cut."""

    path: str
    splits: Mapping[str, int]
    row_biases: tuple[str, ...]  # added once, not once a part

    def owns(self, name: str) -> bool:
        return name.startswith(f"{self.path}.")


@dataclass(frozen=True)
class How:
    """How a process reads its part of a parameter, and what becomes of the gradient.

    summed: it is a part of a sum. silent: the part is to be zero. mean_of: it is divided by this.
    """

    name: str
    summed: bool = False
    silent: bool = False
    mean_of: int = 1


def regions_of(module: nn.Module, config: Any, parts: int, who: str) -> list[Region]:
    """What of a model `parts` processes compute in parts; the model may be on the meta device.

    config: the port's. who: what a message calls the model. PtwError names what can't be cut, and what would
    do.
    """
    found = [
        _region(path, child, config, parts, who)
        for path, child in module.named_modules()
        if any(name in ROWS for name in _linears(child))
    ]
    if not found:
        raise PtwError(
            f"{who}: tensor = {parts}: none of its modules has projections that ptw knows how to cut "
            f"({', '.join(COLUMNS)}, then {', '.join(ROWS)}); set tensor = 1"
        )
    return found


def distribute(module: nn.Module, regions: list[Region], mesh: DeviceMesh) -> None:
    """Each process of a mesh of one dimension keeps its part of the regions' parameters, and all the rest."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    kept: dict[int, nn.Parameter] = {}  # one parameter may have several names
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        region = next((one for one in regions if one.owns(name)), None)
        split = None if region is None else region.splits.get(name.removeprefix(f"{region.path}."))
        if id(parameter) not in kept:
            placement = Replicate() if split is None else Shard(split)
            # every process has, or will read, the same: nothing is sent
            placed = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=None)
            kept[id(parameter)] = nn.Parameter(placed, parameter.requires_grad)
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, kept[id(parameter)])
    for path, owner in list(module.named_modules()):
        _compute_locally(owner, path, regions, first=mesh.get_local_rank() == 0)
    for region in regions:
        _sum_over(module.get_submodule(region.path), mesh)


def _region(path: str, module: nn.Module, config: Any, parts: int, who: str) -> Region:
    linears = _linears(module)
    where = f"{who}: tensor = {parts}: {path}"
    if unknown := [name for name in linears if name not in COLUMNS and name not in (*ROWS, *WHOLE)]:
        raise PtwError(
            f"{where}.{unknown[0]} ({linears[unknown[0]].out_features} rows) is a projection that ptw cannot "
            "cut: what its rows are is not known, or several projections lie in it one after another; "
            "set tensor = 1"
        )
    if not any(name in COLUMNS for name in linears):
        raise PtwError(f"{where} has no projection that ptw knows before its last; set tensor = 1")
    splits: dict[str, int] = {}
    for name, linear in linears.items():
        if name in COLUMNS:
            _demand_divisible(f"{where}.{name}", linear, COLUMNS[name], config, parts)
            splits |= {f"{name}.weight": 0, f"{name}.bias": 0, f"{name}.lora_B.weight": 0}
        elif name in ROWS:
            splits |= {f"{name}.weight": 1, f"{name}.lora_A.weight": 1}
    heads = getattr(config, QUERIES, None)
    for name, parameter in module.named_parameters():
        if name.split(".")[0] not in linears and name not in splits:
            if "." not in name and parameter.shape == (heads,):  # a number a head
                splits[name] = 0
            else:
                _demand_head_by_head(where, name, parameter, linears)
    return Region(path, splits, tuple(f"{name}.bias" for name in linears if name in ROWS))


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: child for name, child in module.named_children() if isinstance(child, nn.Linear)}


def _demand_divisible(where: str, linear: nn.Linear, key: str | None, config: Any, parts: int) -> None:
    count: Any = linear.out_features
    unit = "rows"
    if key is not None:
        count = getattr(config, key, None) or getattr(config, QUERIES, 0)
        unit = "key heads" if key == KEYS else "heads"
    if not count or count % parts or linear.out_features % parts:
        hint = "set tensor = 1" + (f", or to a number that divides {count}" if count > 1 else "")
        raise PtwError(f"{where} has {count} {unit}, which cannot be dealt to {parts}; {hint}")


def _demand_head_by_head(
    where: str, name: str, parameter: nn.Parameter, linears: Mapping[str, nn.Linear]
) -> None:
    """Refuse a norm over all heads at once, and modules that one head each has."""
    across = {linear.out_features for column, linear in linears.items() if column in COLUMNS}
    if parameter.ndim != 1 or len(parameter) in across or name.count(".") != 1:
        raise PtwError(
            f"{where}.{name} {tuple(parameter.shape)} belongs to all heads at once, of which each process "
            "has a part only; set tensor = 1"
        )


def _compute_locally(owner: nn.Module, path: str, regions: list[Region], first: bool) -> None:
    """Of the module's own parameters, this process's parts are read."""
    hows = []
    for name in owner._parameters:
        full = f"{path}.{name}" if path else name
        region = next((one for one in regions if one.owns(full)), None)
        inside = "" if region is None else full.removeprefix(f"{region.path}.")
        # what is whole in a region meets this process's heads only: its gradient is a part of a sum
        summed = region is not None and inside not in region.splits
        silent = region is not None and inside in region.row_biases and not first
        hows.append(How(name, summed, silent))
    if hows:
        read_locally(owner, tuple(hows))


def read_locally(owner: nn.Module, hows: tuple[How, ...]) -> None:
    """Whoever reads one of these parameters is given what this process holds of it, a plain tensor."""
    # as FSDP2 does it: parameters, their names and the state dict stay what they are
    kind: Any = type(owner)
    owner.__class__ = _local_class(kind, hows)


@once
def _local_class(kind: Any, hows: tuple[How, ...]) -> type[nn.Module]:
    return type(f"Local{kind.__name__}", (kind,), {how.name: property(_reader(how)) for how in hows})


def _reader(how: How) -> Any:
    def read(module: nn.Module) -> Any:
        from torch.distributed.tensor import DTensor, Partial

        parameter: Any = module._parameters[how.name]
        if not isinstance(parameter, DTensor) or parameter.device_mesh.ndim > 1:
            return parameter  # FSDP asks for the shards that it has not gathered
        local = parameter.to_local(grad_placements=[Partial()] if how.summed else None)
        if how.mean_of > 1 and local.requires_grad:
            local.register_hook(lambda gradient: gradient / how.mean_of)
        return local * 0.0 if how.silent else local

    return read


def _sum_over(region: nn.Module, mesh: DeviceMesh) -> None:
    """Hidden states go in whole, and their gradient is summed; what comes out is summed."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    def enter(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = given
        assert not any(isinstance(one, Tensor) and one.requires_grad for one in rest), "two ways in"
        whole = DTensor.from_local(hidden, mesh, [Replicate()], run_check=False)
        return (whole.to_local(grad_placements=[Partial()]), *rest)

    def leave(module: nn.Module, given: tuple[Any, ...], part: Tensor) -> Tensor:
        summed = DTensor.from_local(part, mesh, [Partial()], run_check=False)
        out: Tensor = summed.redistribute(placements=[Replicate()]).to_local()
        return out

    region.register_forward_pre_hook(enter)
    region.register_forward_hook(leave)
