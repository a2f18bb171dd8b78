"""How much memory will a worker need? Told of shapes alone, before anything runs or is read."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ptw.errors import PtwError
from ptw.ports.adapting import linear_layers
from ptw.ports.checkpoint import read_config
from ptw.ports.load import Loaded
from ptw.ports.outline import by_block, cast, on, outline
from ptw.ports.quantise import PackedBytes
from ptw.ports.scores import own_head
from ptw.ports.source import held
from ptw.tokens.cache import NotMade, nothing_made
from ptw.tokens.declared import open_tokenizer
from ptw.train import adapted, new_rows
from ptw.train.holding import Holding, Packed
from ptw.train.parallel import recompute
from ptw.train.passed import Gradients, Passed, passed
from ptw.train.plan import Plan
from ptw.train.settings import TrainingSettings
from ptw.workspace.manifest import ModelEntry

MOMENTS = 2  # that AdamW has of each gradient
COUNT_BYTES = 4  # of the steps that it counts, a parameter
OWN_LOSS = "loss: {0} has its own, and neither it nor what else {0} holds (a reference, engines) is counted"
# how a port says that it needs numbers where there are shapes alone
NEEDS_NUMBERS = (RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Memory:
    """Bytes of the worker that holds most, on its device; None: they cannot be known, and `notes` say why.

    whole: of what is held in parts, or packed, what is whole for a while. copy: what a checkpoint is written
    from, where that is in the same memory.
    """

    weights: int
    gradients: int
    optimizer: int
    whole: int
    parameters: int = 0  # how many the model has
    trained: int = 0  # how many of them learn
    roles: Mapping[str, int] = field(default_factory=dict)
    copy: int = 0
    rows: int = 0  # of a pass
    of_pass: Passed | None = None
    notes: tuple[str, ...] = ()

    @property
    def together(self) -> int | None:
        """The most that is there at once."""
        if self.of_pass is None:
            return None
        stays = self.weights + self.optimizer + self.whole + self.copy + sum(self.roles.values())
        return stays + self.of_pass.most


def estimate(plan: Plan, settings: TrainingSettings) -> Memory:
    """What each worker of this plan will need. PtwError where nothing can be known of the model yet."""
    config = hf_config_of(plan, plan.model)
    adapted.demand_sense(settings, plan.model.hf is None, plan.cluster.tensor)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    loaded, packed = _learning(mode, plan, settings, config)
    everything = list(loaded.module.parameters())
    holding = Holding.of(plan.cluster, loaded, f"model {plan.model.name}")
    known = _held(loaded.module, holding, packed)
    known = dataclasses.replace(
        known,
        parameters=sum(one.numel() for one in everything),
        trained=sum(one.numel() for one in everything if one.requires_grad),
        roles={role: _frozen(plan, settings, one) for role, one in plan.roles.items() if _is_here(one)},
        copy=0 if plan.cluster.gpus_per_worker else known.gradients + known.optimizer,
    )
    if loaded.port is None:
        why = "activations: the model has no port, and Hugging Face's class is not computed without numbers"
        return dataclasses.replace(known, notes=(why,))
    try:
        return _with_pass(known, mode, plan, settings, loaded.module, holding, packed)
    except NEEDS_NUMBERS as error:
        what = (str(error).strip() or type(error).__name__).splitlines()[0]
        why = f"activations: the port cannot be computed of shapes alone ({what})"
        return dataclasses.replace(known, notes=(why,))


def hf_config_of(plan: Plan, entry: ModelEntry) -> dict[str, Any]:
    """As the run will have it, with a row for each token; PtwError where that is not known yet."""
    if entry.hf is None:
        return {**(entry.config or {}), "vocab_size": _vocabulary(plan)}
    folder = held(entry.hf, entry.revision, plan.root)
    if folder is None:
        raise PtwError(f"model {entry.name} is not on this machine yet")
    values = read_config(folder)
    declared = plan.tokenizer.semantic_ids or plan.tokenizer.special_tokens or plan.tokenizer.fields
    if entry == plan.model and declared and "vocab_size" in values:
        values["vocab_size"] = max(int(values["vocab_size"]), _vocabulary(plan))
    return values


def calls_in(plan: Plan) -> dict[str, frozenset[str]]:
    """Which methods the recipe calls, with which keywords, as far as one sees without running it."""
    found: dict[str, frozenset[str]] = {}
    for node in ast.walk(ast.parse(plan.file.read_bytes())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = frozenset(str(keyword.arg) for keyword in node.keywords)
            found[node.func.attr] = found.get(node.func.attr, frozenset()) | given
    return found


def _vocabulary(plan: Plan) -> int:
    entry = plan.tokenizer
    if entry.hf is not None and held(entry.hf, entry.revision, plan.root) is None:
        raise PtwError(f"tokenizer {entry.name} is not on this machine yet")
    try:
        with nothing_made():
            return open_tokenizer(plan.workspace(), entry.name).size
    except NotMade as error:
        grows = entry.semantic_ids or entry.special_tokens or entry.fields
        if entry.vocab_size is not None and not grows:
            return entry.vocab_size  # its data may teach a few less
        hint = f"`ptw data {plan.dataset}` makes it, as the run will"
        raise PtwError(
            f"how many tokens {entry.name} has is not known before it is made of its data; {hint}"
        ) from error


def _is_here(entry: ModelEntry) -> bool:
    return entry.endpoint is None


def _learning(
    mode: FakeTensorMode, plan: Plan, settings: TrainingSettings, config: Mapping[str, Any]
) -> tuple[Loaded, Packed]:
    """The model as it learns, and the matrices of it that will be packed."""
    asked = calls_in(plan).get("model", ())
    narrow = settings.adapter != "none" and settings.precision == "bf16"
    loaded = outline(
        config,
        plan.root,
        port=plan.model.port,
        dtype=torch.bfloat16 if narrow else torch.float32,
        scores=1 if "scores" in asked else None,
    )
    with mode:
        on(loaded.module, "cpu")
    packed: Packed = {}
    if settings.adapter == "qlora":
        layers = linear_layers(loaded.module)
        packed = {f"{name}.weight": PackedBytes.of(one.weight.numel()) for name, one in layers.items()}
    unpacked = dataclasses.replace(settings, adapter="lora") if packed else settings
    with mode:
        adapted.begin(loaded, unpacked, settings.seed, torch.device("cpu"))
    if settings.stage == "new-rows":
        new_rows.freeze(loaded.module, loaded.port, getattr(loaded.module, "config", None))
    if "pooling" in asked:
        for name in own_head(loaded.module):
            loaded.module.get_parameter(name).requires_grad_(False)
    return loaded, packed


def _held(module: nn.Module, holding: Holding, packed: Packed) -> Memory:
    """What a worker keeps."""
    named = dict(module.named_parameters())
    own = {name: holding.kept(name, one) * one.element_size() for name, one in named.items()}
    learnt = [name for name, one in named.items() if one.requires_grad]
    gradients = sum(own[name] for name in learnt)
    return Memory(
        weights=sum({**own, **holding.packed(packed)}.values()),
        gradients=gradients,
        optimizer=MOMENTS * gradients + COUNT_BYTES * len(learnt),
        whole=holding.whole(module, packed),
    )


def _frozen(plan: Plan, settings: TrainingSettings, entry: ModelEntry) -> int:
    """The weights of a model that takes part and does not learn."""
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    loaded = outline(hf_config_of(plan, entry), plan.root, port=entry.port, dtype=dtype, scores=None)
    return _held(loaded.module, Holding.of(plan.cluster, loaded, f"model {entry.name}"), {}).weights


def _with_pass(
    known: Memory,
    mode: FakeTensorMode,
    plan: Plan,
    settings: TrainingSettings,
    module: nn.Module,
    holding: Holding,
    packed: Packed,
) -> Memory:
    """With the largest pass of a worker."""
    own = -(-settings.rows // (plan.cluster.workers // plan.cluster.tensor))
    adds = settings.read_window != settings.window  # rows of its own, however many
    rows = settings.rows_at_once if adds else min(settings.rows_at_once, own)
    learns = {name: one for name, one in module.named_parameters() if one.requires_grad}
    kept = {name: holding.kept(name, one) * one.element_size() for name, one in learns.items()}
    narrow = settings.precision == "bf16"
    if narrow and not holding.alone:
        cast(module, torch.bfloat16)
    if plan.cluster.recompute:
        recompute(module)
    rest = set() if holding.alone else {id(one) for one in by_block(module)[0]}
    until_end = [name for name, one in module.named_parameters() if id(one) in rest]
    autocast = torch.autocast("cpu", torch.bfloat16) if narrow and holding.alone else nullcontext()
    gradients = Gradients(kept, adds or own > rows, until_end)
    learnt = "mean_loss" in calls_in(plan)
    of_pass = passed(mode, module, (rows, settings.window), settings if learnt else None, gradients, autocast)
    notes = [] if of_pass.loss is not None else [OWN_LOSS.format(plan.file.stem)]
    if "scores" in calls_in(plan).get("model", ()):
        notes.append("scores: one is counted, since how many there are is known with the data")
    whole = holding.whole(module, packed)  # in what it is cast to
    return dataclasses.replace(known, of_pass=of_pass, whole=whole, rows=rows, notes=tuple(notes))
