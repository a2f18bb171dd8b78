"""How does a low-rank adapter come onto a port, and from it again? PEFT's LoRA (Hu et al., 2021)."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ptw.errors import PtwError
from ptw.ports.load import Loaded
from ptw.ports.weights import Named, Operator, Rename

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
WITHOUT_PORT = "reference."  # where Hugging Face's own class hangs
# keys that say where an adapter came from, or that only an initialisation reads
IDLE = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}
# these change the base model when PEFT loads them
PLAIN_STARTS = (None, True, False, "gaussian")

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # of input, weight and bias


@dataclass(frozen=True)
class Settings:
    """What of adapter_config.json is implemented; every other key that says something is refused by name."""

    r: int
    lora_alpha: float
    target_modules: tuple[str, ...]
    lora_dropout: float = 0.0
    use_rslora: bool = False

    @property
    def scaling(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def as_peft(self) -> dict[str, Any]:
        """The values of adapter_config.json."""
        return {
            "bias": "none",
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "peft_type": "LORA",
            "r": self.r,
            "target_modules": sorted(self.target_modules),
            "task_type": "CAUSAL_LM",
            "use_rslora": self.use_rslora,
        }


@dataclass(frozen=True)
class Adapter:
    """pairs: for each linear layer, by the checkpoint's name of it, A (r, in) and B (out, r)."""

    settings: Settings
    pairs: Mapping[str, tuple[Tensor, Tensor]]


class LoRALinear(nn.Linear):
    """A linear layer and, on its input, a low-rank addition to its output.

    weight and bias are the layer's own under their own names, so that the model's export stays as it is.
    """

    idle = False  # the layer alone answers

    def __init__(self, base: nn.Linear, name: str, settings: Settings, down: Tensor, up: Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.checkpoint_name, self.settings = name, settings
        self.product: Product = getattr(base, "product", functional.linear)
        # an adapter is small and learns in small steps: bf16 would round them away
        wide = torch.promote_types(torch.promote_types(down.dtype, base.weight.dtype), torch.float32)
        self.lora_A, self.lora_B = (_matrix(one.to(base.weight.device, wide)) for one in (down, up))

    def forward(self, input: Tensor) -> Tensor:
        output, settings = self.product(input, self.weight, self.bias), self.settings
        if self.idle:
            return output
        dropped = functional.dropout(input.to(self.lora_A.weight.dtype), settings.lora_dropout, self.training)
        return (output + self.lora_B(self.lora_A(dropped)) * settings.scaling).to(output.dtype)


def read(folder: Path) -> Adapter:
    """The adapter in a folder; PtwError names what of its configuration or tensors is not implemented."""
    settings = _settings(folder / CONFIG)
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise PtwError(f"{folder / TENSORS}: can't be read: {error}") from error
    pairs, rest = {}, set(tensors)
    for name in sorted(key.removeprefix(PREFIX).removesuffix(DOWN) for key in tensors if key.endswith(DOWN)):
        names = (f"{PREFIX}{name}{DOWN}", f"{PREFIX}{name}{UP}")
        if not rest.issuperset(names):
            raise PtwError(f"{folder / TENSORS}: {name} has no pair {names[0]} and {names[1]}")
        if not any(name == target or name.endswith(f".{target}") for target in settings.target_modules):
            raise PtwError(f"{folder / CONFIG}: target_modules: {name}, which has tensors, is not among them")
        rest -= set(names)
        pairs[name] = (tensors[names[0]], tensors[names[1]])
    if rest or not pairs:
        odd = sorted(rest)[0] if rest else "no tensor"
        raise PtwError(f"{folder / TENSORS}: {odd}: not a pair of LoRA's matrices")
    return Adapter(settings, pairs)


def attach(loaded: Loaded, adapter: Adapter) -> None:
    """Put the adapter on the model's linear layers; PtwError names the layer that is none, before any is."""
    layers = {name: _layer(loaded, name) for name in adapter.pairs}
    for name, (place, layer) in layers.items():
        down, up = adapter.pairs[name]
        rank = adapter.settings.r
        wanted = ((rank, layer.in_features), (layer.out_features, rank))
        if (tuple(down.shape), tuple(up.shape)) != wanted:
            raise PtwError(
                f"adapter: {name}: its matrices are {tuple(down.shape)} and {tuple(up.shape)}, "
                f"but {place} needs {wanted[0]} and {wanted[1]}"
            )
    for name, (place, layer) in layers.items():
        _replace(loaded.module, place, LoRALinear(layer, name, adapter.settings, *adapter.pairs[name]))


def places(loaded: Loaded, adapter: Adapter) -> dict[str, str]:
    """For each of its layers, by the checkpoint's name, where in the port it is; empty where it is not."""
    found = {}
    for name in adapter.pairs:
        try:
            found[name] = _layer(loaded, name)[0]
        except PtwError:
            found[name] = ""
    return found


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """The adapter's own parameters, under the names of PEFT's file; the rest of the model is the base."""
    own = dict(module.named_parameters())
    return {key: own[name] for key, name in _keys(module).items()}


def save(
    module: nn.Module,
    settings: Settings,
    folder: Path,
    *,
    state: Mapping[str, Tensor] | None = None,
    base: str | None = None,
    beside: str | None = None,
) -> None:
    """Write what is attached, for PEFT to load; the folder appears whole or not at all.

    `state` gives full tensors where the module's own are sharded; `base` is the base model's name; `beside`
    that of a weight which learnt as a whole: the projection to scores.
    """
    if folder.exists():
        raise PtwError(f"{folder}: there is something already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        full = module.state_dict() if state is None else state
        tensors = {key: full[name].detach().cpu().contiguous() for key, name in _keys(module).items()}
        values = settings.as_peft() | ({} if base is None else {"base_model_name_or_path": base})
        if beside is not None:
            whole = beside.removeprefix(WITHOUT_PORT)
            tensors[f"{PREFIX}{whole}"] = full[beside].detach().cpu().contiguous()
            values |= {"modules_to_save": [whole.removesuffix(".weight")], "task_type": "SEQ_CLS"}
        save_file(tensors, aside / TENSORS, {"format": "pt"})
        (aside / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
        aside.chmod(0o755)
        aside.replace(folder)
    except (OSError, SafetensorError) as error:
        raise PtwError(f"{folder}: could not be written: {error}; nothing was left behind") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def attached(module: nn.Module) -> dict[str, LoRALinear]:
    """The layers with an adapter, by their place in the module."""
    return {place: one for place, one in module.named_modules() if isinstance(one, LoRALinear)}


@contextmanager
def without(module: nn.Module) -> Iterator[None]:
    """Within it the model answers as if it had no adapter."""
    layers = attached(module).values()
    for layer in layers:
        layer.idle = True
    try:
        yield
    finally:
        for layer in layers:
            layer.idle = False


def _settings(file: Path) -> Settings:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PtwError(f"{file}: not readable as JSON: {error}") from error
    values = values if isinstance(values, dict) else {}
    targets, rank = values.get("target_modules"), values.get("r")
    if values.get("peft_type") != "LORA" or not isinstance(targets, list):
        raise PtwError(f"{file}: only peft_type LORA with a list of target_modules is implemented")
    if values.get("bias", "none") != "none":
        raise PtwError(f'{file}: bias = {values["bias"]!r} is not implemented; only "none" is')
    if values.get("init_lora_weights") not in PLAIN_STARTS:
        raise PtwError(f"{file}: init_lora_weights = {values['init_lora_weights']!r} changes the base model")
    if type(rank) is not int or rank < 1 or "lora_alpha" not in values:
        raise PtwError(f"{file}: r = {rank!r}: a rank is a whole number above 0, beside lora_alpha")
    own = set(Settings.__dataclass_fields__)
    if odd := sorted(key for key, value in values.items() if value and key not in own | IDLE | {"bias"}):
        raise PtwError(f"{file}: {odd[0]} = {values[odd[0]]!r} is not implemented")
    return Settings(**{**{key: values[key] for key in own & set(values)}, "target_modules": tuple(targets)})


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is a linear layer and nothing else, by its weight or by a product of its own with it."""
    packed = isinstance(layer, nn.Linear) and hasattr(layer, "product")
    return type(layer) is nn.Linear or (packed and not isinstance(layer, LoRALinear))


def _layer(loaded: Loaded, name: str) -> tuple[str, nn.Linear]:
    """Where the model holds a linear layer of the checkpoint, and the layer."""
    place = f"{WITHOUT_PORT}{name}" if loaded.port is None else _place(loaded, name)
    layer = loaded.module.get_submodule(place)
    # a layer that computes otherwise would not know of the adapter
    if not is_plain(layer):
        raise PtwError(f"adapter: {name}: {place} is a {type(layer).__name__} in the port, not an nn.Linear")
    return place, layer


def _place(loaded: Loaded, name: str) -> str:
    weight = f"{name}.weight"
    operator = next((one for one in loaded.operators if weight in _names(one)), None)
    plain = operator.operator if isinstance(operator, Named) else operator
    if not isinstance(plain, Rename):
        how = "it is no tensor of the checkpoint" if plain is None else f"{type(plain).__name__} makes it"
        raise PtwError(f"adapter: {name}: there is no linear layer of the port that is this one alone: {how}")
    return plain.ours_name.removesuffix(".weight")


def _names(operator: Operator) -> tuple[str, ...]:
    return operator.names if isinstance(operator, Named) else operator.theirs


def _keys(module: nn.Module) -> dict[str, str]:
    """The names of PEFT's file, and the module's own."""
    layers = {place: layer.checkpoint_name for place, layer in attached(module).items()}
    return {f"{PREFIX}{name}{end}": f"{place}{end}" for place, name in layers.items() for end in (DOWN, UP)}


def _replace(module: nn.Module, place: str, layer: nn.Module) -> None:
    owner, _, attribute = place.rpartition(".")
    setattr(module.get_submodule(owner), attribute, layer)


def _matrix(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.clone())
    return layer
