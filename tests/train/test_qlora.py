"""A base in NF4 under an adapter. What computes needs bitsandbytes, whose NF4 runs on a CPU, too."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ptw.errors import PtwError
from ptw.evals.evaluate import evaluate
from ptw.nn.layout import Layout
from ptw.ports import adapter, quantise
from ptw.ports.load import load
from ptw.ports.parallel import local
from ptw.ports.weights import Rename
from ptw.runs import lines, record
from ptw.runs.open import open_named
from ptw.train.adapted import AdapterSettings, begin, demand_sense, notes
from ptw.train.group import Group
from ptw.train.memory import estimate
from ptw.train.parallel import spreading
from ptw.workspace import rooms
from ptw.workspace.manifest import ClusterEntry, read
from tests.train.conftest import planned, steps_of, together, trained
from tests.train.test_adapted import ALONE, LORA, is_near, logits_of, with_base
from tests.train.test_adapted_dealt import dealt, losses_of, with_sparse_base

QLORA = LORA | {"adapter": "qlora"}
WIDE = {"hidden_size": 64, "intermediate_size": 128}


def test_it_is_refused_where_bitsandbytes_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "LIBRARY", "bitsandbytes_that_is_not_there")
    with pytest.raises(PtwError, match=r"pip install 'ptw\[qlora\]'"):
        trained(planned(with_base(tmp_path / "ws", **WIDE), "chat", **QLORA))


def test_heads_of_matrices_in_4_bits_are_not_dealt() -> None:
    with pytest.raises(PtwError, match="set tensor = 1"):
        demand_sense(AdapterSettings(adapter="qlora"), shape=False, tensor=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "how"), [("fp32", {}), ("bf16", {}), ("fp32", {"replicas": 2}), ("fp32", {"recompute": 1})]
)
def test_two_workers_learn_on_a_packed_base_as_one(
    tmp_path: Path, precision: str, how: dict[str, int]
) -> None:
    pytest.importorskip("bitsandbytes")
    root = with_base(tmp_path / "ws", **WIDE)
    settings = QLORA | {"rows": 3, "rows_at_once": 1, "precision": precision, "checkpoint_every": 2}
    one = trained(planned(root, "chat", **settings))
    plan = dealt(planned(root, "chat", **settings), **how)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    within = 1e-6 if precision == "fp32" else 1e-2
    assert losses_of(plan.run_folder()) == pytest.approx(losses_of(one.folder), rel=within)
    models = [load_file(folder / "model" / "model.safetensors") for folder in (plan.run_folder(), one.folder)]
    for name, tensor in models[0].items():
        assert is_near(tensor, models[1][name].double()) < max(within, 1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_experts_beside_packed_matrices_are_shared(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    root = with_sparse_base(tmp_path / "ws", **WIDE, num_attention_heads=8)
    settings = QLORA | {"rows": 3, "rows_at_once": 1, "lora_targets": "o_proj"}
    one = trained(planned(root, "chat", **settings))
    plan = dealt(planned(root, "chat", **settings), experts=2)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert losses_of(plan.run_folder()) == pytest.approx(losses_of(one.folder), rel=1e-6)


def test_the_blocks_matrices_are_packed_and_nothing_else(tmp_path: Path) -> None:
    """Targeted or not; what is unpacked again gives the logits of what computes, and the right gradients."""
    pytest.importorskip("bitsandbytes")
    base = with_base(tmp_path / "ws", **WIDE) / "base"
    settings = AdapterSettings(adapter="qlora", lora_targets=["q_proj"])
    packed, plain = (load(base, None) for _ in range(2))
    begin(packed, settings, 0, ALONE.device)
    assert "in NF4, 9." in next(notes(packed, settings))  # percent: what it costs normal weights
    bytes_of = {name: own.dtype for name, own in packed.module.named_parameters() if "lora" not in name}
    assert {name for name, dtype in bytes_of.items() if dtype == torch.uint8} == {
        name for name in bytes_of if "_proj" in name
    }
    begin(plain, AdapterSettings(adapter="lora", lora_targets=["q_proj"]), 0, ALONE.device)
    state = quantise.unpacked(packed.module, packed.module.state_dict())
    before = load_file(base / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert 0.05 < is_near(state["model.layers.0.mlp.up_proj.weight"], before.double()) < 0.15
    plain.module.load_state_dict(state)
    assert is_near(logits_of(packed.module), logits_of(plain.module).double()) < 1e-6
    for one in (packed, plain):
        with torch.no_grad():
            for layer in adapter.attached(one.module).values():
                layer.lora_B.weight.fill_(0.01)
        gradient_of(one.module)
    pairs = [adapter.parameters(one.module) for one in (packed, plain)]
    for name, ours in pairs[0].items():
        torch.testing.assert_close(ours.grad, pairs[1][name].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("workers", [1, 4])
def test_a_worker_holds_its_part_of_the_packed_values_and_a_dry_run_says_so(
    tmp_path: Path, workers: int
) -> None:
    pytest.importorskip("bitsandbytes")
    root, cluster = with_base(tmp_path / "ws", **WIDE), ClusterEntry("some", workers=workers)
    plan = dataclasses.replace(planned(root, "chat", **QLORA), cluster=cluster)
    settings = rooms.load(plan.file).Settings(**plan.settings)
    spread = spreading(cluster, Group(0, workers, ALONE.device), "fp32", "the model")
    loaded = load(
        *(root / "base", root),
        prepare=lambda bare: begin(bare, settings, 0, ALONE.device),
        spread=spread,
    )
    held = sum(local(one).nbytes for one in loaded.module.parameters())
    layers = loaded.module.modules()
    states = [one.product.state for one in layers if isinstance(getattr(one, "product", None), quantise.NF4)]
    for state in states:
        parts = (state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset)
        held += sum(part.nbytes for part in parts)
    found = estimate(plan, settings)
    assert len(states) == 14
    assert found.weights == held
    assert found.of_pass is not None
    assert found.whole > 0


def test_what_an_operator_packed_it_gives_back() -> None:
    pytest.importorskip("bitsandbytes")
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(7))
    product = quantise.NF4("layer", weight, ALONE.device)
    one = quantise.Packing(Rename("theirs", "ours"), {"ours": product}, ("theirs",), ("ours",))
    (packed,) = one.from_hf([weight])
    assert packed.dtype == torch.uint8
    assert packed.numel() == weight.numel() // 2
    (back,) = one.to_hf([packed])
    assert is_near(back, weight.double()) < 0.15


def gradient_of(module: torch.nn.Module) -> None:
    ids = torch.arange(1, 21)[None]
    hidden = module.train()(ids, Layout.of_documents([[20]]))
    module.head().loss(hidden, ids.roll(-1, 1)).backward()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_learns_says_what_was_lost_and_publishes_what_it_trained(
    tmp_path: Path, precision: str
) -> None:
    pytest.importorskip("bitsandbytes")
    root = with_base(tmp_path / "ws", **WIDE)
    found = trained(planned(root, "chat", **QLORA, precision=precision, checkpoint_every=3))
    steps = steps_of(found.folder)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    said = [line["text"] for line in lines.read(found.folder / record.EVENTS)[0]]
    assert any("the base is in NF4" in text for text in said)
    evaluated = [line for line in lines.read(found.folder / record.METRICS)[0] if line["kind"] == "eval"]
    again = trained(planned(root, "chat", **QLORA, precision=precision, checkpoint_every=3))
    assert steps_of(again.folder)[-1]["loss"] == steps[-1]["loss"]
    limit = 1e-6 if precision == "fp32" else 1e-2
    assert evaluate(read(root), open_named(read(root), found.name))["loss"] == pytest.approx(
        evaluated[-1]["held_out_loss"], rel=limit
    )


def test_a_matrix_of_another_shape_is_refused_though_it_has_as_many_values(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    root = with_base(tmp_path / "ws", **WIDE)
    file = root / "base" / "model.safetensors"
    tensors, name = load_file(file), "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].T.contiguous()}, file, {"format": "pt"})
    with pytest.raises(PtwError, match=r"asks for model\.layers\.1\.mlp\.up_proj of shape \(128, 64\)"):
        trained(planned(root, "chat", **QLORA))


def test_weights_that_do_not_come_back_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    right = quantise.NF4.unpacked
    monkeypatch.setattr(quantise.NF4, "unpacked", lambda self, weight: right(self, weight).roll(1, 0))
    with pytest.raises(PtwError, match=r"does not give model\.layers\.0\.self_attn\.q_proj of shape"):
        trained(planned(with_base(tmp_path / "ws", **WIDE), "chat", **QLORA))
