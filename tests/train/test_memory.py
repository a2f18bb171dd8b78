"""What a dry run says of memory is what the model, its optimizer and its forward pass take."""

import dataclasses
import gc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from ptw.cli import cli
from ptw.errors import PtwError
from ptw.nn.layout import Layout
from ptw.ports.export import export
from ptw.ports.load import Loaded, create, load
from ptw.ports.parallel import local
from ptw.tokens.declared import open_tokenizer
from ptw.train import adapted, fits, passed
from ptw.train.fits import Room, told
from ptw.train.group import Group
from ptw.train.memory import Memory, estimate
from ptw.train.optimize import adamw
from ptw.train.parallel import recompute, spreading
from ptw.train.plan import Plan, resolve
from ptw.workspace import rooms
from ptw.workspace.manifest import ClusterEntry, read
from tests.train.conftest import make_workspace
from tests.train.test_flops import FAMILIES

ALONE = ClusterEntry("alone")
ROWS, WINDOW = 3, 96
WIDE = {"hidden_size": 64, "num_hidden_layers": 3, "max_position_embeddings": 128}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer that is made, and a checkpoint of a llama."""
    root = make_workspace(tmp_path_factory.mktemp("memory") / "ws")
    open_tokenizer(read(root), "words")
    export(model_of(root, "llama"), root / "base")
    return root


def config_of(family: str) -> dict[str, Any]:
    return {"model_type": family, **FAMILIES[family], **WIDE}


def model_of(root: Path, family: str, **how: Any) -> Loaded:
    size = open_tokenizer(read(root), "words").size
    return create({**config_of(family), "vocab_size": size}, root, seed=0, **how)


def plan_of(root: Path, family: str | None = None, cluster: ClusterEntry = ALONE, **settings: object) -> Plan:
    """Of a shape of the family, or of the checkpoint."""
    given = {"rows": ROWS, "window": WINDOW, **settings}
    plan = resolve(read(root), "chat", {key: str(value) for key, value in given.items()})
    model = dataclasses.replace(plan.model, config=None, hf="base")
    if family is not None:
        model = dataclasses.replace(plan.model, config=config_of(family))
    return dataclasses.replace(plan, model=model, cluster=cluster)


def estimated(plan: Plan) -> Memory:
    return estimate(plan, rooms.load(plan.file).Settings(**plan.settings))


def kept_by(module: nn.Module, computing: Any) -> int:
    """Bytes that stand in memory after a forward pass because of it, parameters left out: each storage once.

    What autograd saves, and tensors that Python sees: blocks to be computed again hold what they are given.
    """
    ids_BT = torch.randint(0, 200, (ROWS, WINDOW), generator=torch.Generator().manual_seed(0))
    layout, kept = Layout.of_documents([[WINDOW]] * ROWS), dict[int, int]()
    before = {at for at, _ in seen()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor), computing:
        hidden_BTD = module(ids_BT, layout)
    kept |= dict(seen())
    assert hidden_BTD.untyped_storage().data_ptr() in kept
    return sum(size for at, size in kept.items() if at not in before)


def seen() -> list[tuple[int, int]]:
    """Where storages of tensors lie that Python knows of, and their bytes."""
    tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter)]
    return [
        (one.untyped_storage().data_ptr(), one.untyped_storage().nbytes())
        for one in tensors
        if not one.is_meta
    ]


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_weights_gradients_and_optimizer_are_told_to_the_byte(root: Path, family: str) -> None:
    module = model_of(root, family).module
    found, optimizer = estimated(plan_of(root, family)), adamw(module, 1e-3, 0.1)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = [value.nbytes for values in optimizer.state.values() for value in values.values()]
    assert found.weights == found.gradients == sum(one.nbytes for one in module.parameters())
    assert found.optimizer == sum(state)
    assert found.parameters == found.trained == sum(one.numel() for one in module.parameters())


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(
    ("family", "precision"),
    [
        *((family, "fp32") for family in ("llama", "qwen3_moe", "gpt_oss", "gemma3_text")),
        *((family, "bf16") for family in ("llama", "qwen3_moe")),
    ],
)
def test_activations_are_those_that_are_kept(root: Path, family: str, again: bool, precision: str) -> None:
    module = model_of(root, family).module.train()
    if again:
        recompute(module)
    narrow = precision == "bf16"
    kept = kept_by(module, torch.autocast("cpu", torch.bfloat16) if narrow else nullcontext())
    cluster = dataclasses.replace(ALONE, recompute=again)
    of_pass = estimated(plan_of(root, family, cluster, precision=precision)).of_pass
    assert of_pass is not None
    # of blocks that are computed again autocast alone holds what it cast
    assert of_pass.activations + of_pass.cast * (not again) == pytest.approx(kept, rel=0.05)
    assert (of_pass.cast > 0) == narrow


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_keeps_what_it_keeps(root: Path, precision: str) -> None:
    plan = plan_of(root, adapter="lora", lora_rank=4, precision=precision)
    settings, narrow = rooms.load(plan.file).Settings(**plan.settings), precision == "bf16"
    base = load(root / "base", root, dtype=torch.bfloat16 if narrow else torch.float32)
    adapted.begin(base, settings, 0, torch.device("cpu"))
    module = base.module.train()
    kept = kept_by(module, torch.autocast("cpu", torch.bfloat16) if narrow else nullcontext())
    found = estimated(plan)
    assert found.of_pass is not None
    assert found.of_pass.activations + found.of_pass.cast == pytest.approx(kept, rel=0.05)
    assert found.weights == sum(one.nbytes for one in module.parameters())
    assert found.gradients == sum(one.nbytes for one in module.parameters() if one.requires_grad)
    packed = estimated(dataclasses.replace(plan, settings={**plan.settings, "adapter": "qlora"}))
    assert packed.gradients == found.gradients
    assert packed.weights < found.weights
    assert packed.of_pass == found.of_pass


def test_a_teacher_is_counted_and_a_head_that_gives_scores_is_no_head_of_words(root: Path) -> None:
    plan = plan_of(root)
    found, base = estimated(plan), load(root / "base", root).module
    beside = estimated(dataclasses.replace(plan, roles={"teacher": plan.model}))
    assert beside.roles == {"teacher": found.weights}
    assert beside.together == (found.together or 0) + found.weights
    scores = dataclasses.replace(plan, file=rooms.stock("recipes") / "reward.py")
    settings = {"rows": ROWS, "window": WINDOW}
    scored = estimated(dataclasses.replace(scores, settings=settings))
    assert any(note.startswith("scores: one is counted") for note in scored.notes)
    head = base.get_parameter("lm_head.weight")
    assert scored.weights == found.weights - head.nbytes + head[0].nbytes


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    "how", [{}, {"replicas": 2}, {"replicas": 4}, {"tensor": 2}, {"experts": 2}], ids=str
)
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_worker_holds_what_the_plan_gives_it(root: Path, family: str, how: dict[str, int]) -> None:
    if family == "llama" and "experts" in how:
        with pytest.raises(PtwError, match="no experts"):
            estimated(plan_of(root, family, ClusterEntry("four", workers=4, **how)))
        return
    cluster = ClusterEntry("four", workers=4, **how)
    spread = spreading(cluster, Group(0, 4, torch.device("cpu"), cluster.tensor), "fp32", "the model")
    module = model_of(root, family, spread=spread).module
    found = estimated(plan_of(root, family, cluster, rows=12))
    assert found.weights == found.gradients == sum(local(one).nbytes for one in module.parameters())
    assert found.whole > 0
    assert found.of_pass is not None


def test_two_workers_halve_what_is_held_and_what_is_kept(root: Path) -> None:
    one, two = (
        estimated(plan_of(root, "llama", ClusterEntry("c", workers=workers), rows=4)) for workers in (1, 2)
    )
    assert two.weights == pytest.approx(one.weights / 2, rel=0.01)
    assert two.optimizer == pytest.approx(one.optimizer / 2, rel=0.01)
    assert one.of_pass is not None
    assert two.of_pass is not None
    assert two.of_pass.activations == pytest.approx(one.of_pass.activations / 2, rel=0.01)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("family", "precision"), [("llama", "bf16"), ("qwen3_moe", "fp32")])
def test_of_many_rows_a_few_are_computed(
    root: Path, family: str, precision: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = dataclasses.replace(ALONE, recompute=again)
    plan = plan_of(root, family, cluster, rows=11, rows_at_once=11, precision=precision)
    few = estimated(plan).of_pass
    monkeypatch.setattr(passed, "FEW", 11)
    all_of_them = estimated(plan).of_pass
    assert few is not None
    assert all_of_them is not None
    rough = 0.02 if family == "qwen3_moe" else 1e-3  # experts' filler grows by steps
    for part in ("cast", "activations", "loss", "most"):
        assert getattr(few, part) == pytest.approx(getattr(all_of_them, part), rel=rough), part


def test_gradients_are_there_while_a_second_pass_computes(root: Path) -> None:
    one, several = (estimated(plan_of(root, "llama", rows=4, rows_at_once=most)) for most in (4, 2))
    assert one.of_pass is not None
    assert several.of_pass is not None
    assert several.of_pass.most >= several.gradients + several.of_pass.activations
    assert one.of_pass.most < one.gradients + one.of_pass.activations + (one.of_pass.loss or 0)


def test_a_dry_run_says_it_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_workspace(tmp_path / "ws")
    monkeypatch.chdir(root)
    done = CliRunner().invoke(cli, ["train", "next", "--dry-run"])  # a token for each item
    assert "how many tokens items has is not known before it is made of its data" in done.stdout
    said = CliRunner().invoke(cli, ["train", "chat", "--dry-run"]).stdout  # vocab_size says how many
    assert not (root / ".ptw").exists()
    for part in ("weights", "optimizer", "2 rows x 128 tokens", "together", "yes  in", "RAM of this machine"):
        assert part in said
    assert not (root / "runs").exists()


def test_of_a_port_that_nobody_has_seen_shapes_are_enough_unless_it_asks_for_numbers(root: Path) -> None:
    text = (rooms.stock("models") / "llama.py").read_text()
    asking = text.replace(
        "        rotate = ", "        assert hidden_BTD.sum().item() < 1e9\n        rotate = "
    )
    (root / "models").mkdir(exist_ok=True)
    for name, port in (("unseen", text), ("asking", asking)):
        (root / "models" / f"{name}.py").write_text(port)
    plan = plan_of(root, "llama")
    of = {
        name: dataclasses.replace(plan.model, config=config_of("llama") | {"model_type": name})
        for name in ("unseen", "asking")
    }
    assert estimated(dataclasses.replace(plan, model=of["unseen"])) == estimated(plan)
    found = estimated(dataclasses.replace(plan, model=of["asking"]))
    assert found.weights == estimated(plan).weights
    assert found.of_pass is None
    assert "the port cannot be computed of shapes alone" in found.notes[0]


def test_what_does_not_fit_is_told_with_what_would_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(root)
    needed = estimated(plan).together
    assert needed is not None
    monkeypatch.setattr(fits, "room_of", lambda plan: Room(needed - 1, "memory"))
    lines = told(plan).splitlines()
    assert any(line.split()[:2] == ["fits", "no"] for line in lines)
    for change in ("rows_at_once = 1", "recompute = true", 'adapter = "lora"'):
        assert any(line.endswith(f"fits, with {change}") for line in lines)


def test_what_cannot_be_known_is_a_dash_with_the_reason(root: Path) -> None:
    without = dataclasses.replace(plan_of(root), model=dataclasses.replace(plan_of(root).model, port="hf"))
    plan = dataclasses.replace(without, model=dataclasses.replace(without.model, hf="base"))
    found = estimated(plan)
    reference = load(root / "base", root, port="hf").module
    assert found.weights == sum(one.nbytes for one in reference.parameters())
    assert found.together is None
    assert "no port" in told(plan)
    assert "tensor = 2 needs a port" in told(
        dataclasses.replace(plan, cluster=ClusterEntry("two", workers=2, tensor=2))
    )
    unknown = dataclasses.replace(plan.model, hf=None, config={"model_type": "unheard-of"})
    assert "transformers can't make it" in told(dataclasses.replace(plan, model=unknown))
    away = dataclasses.replace(plan, model=dataclasses.replace(plan.model, hf="no/model", revision="0" * 40))
    assert "is not on this machine yet" in told(away)
    (root / "recipes" / "own.py").write_text(
        (root / "recipes" / "slow.py").read_text().replace("run.mean_loss(model, batch)", "model(batch)")
    )
    plan = dataclasses.replace(plan_of(root), file=root / "recipes" / "own.py")
    plan = dataclasses.replace(plan, settings={"rows": ROWS, "window": WINDOW})
    assert "loss: own has its own" in told(plan)
    labelling = dataclasses.replace(plan, file=rooms.stock("recipes") / "label.py", settings={})
    assert "label trains nothing" in told(labelling)
