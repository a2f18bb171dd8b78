"""A base in NF4 under an adapter. What computes needs bitsandbytes, whose NF4 runs on a CPU, too."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ptw.errors import PtwError
from ptw.evals.evaluate import evaluate
from ptw.nn.layout import Layout
from ptw.ports import adapter, quantise
from ptw.ports.load import load
from ptw.runs import lines, record
from ptw.runs.open import open_named
from ptw.train.adapted import AdapterSettings, adapt, demand_sense
from ptw.workspace.manifest import read
from tests.train.conftest import planned, steps_of, trained
from tests.train.test_adapted import ALONE, LORA, is_near, logits_of, with_base

QLORA = LORA | {"adapter": "qlora"}
WIDE = {"hidden_size": 64, "intermediate_size": 128}


def test_it_is_refused_where_bitsandbytes_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "LIBRARY", "bitsandbytes_that_is_not_there")
    with pytest.raises(PtwError, match=r"pip install 'ptw\[qlora\]'"):
        trained(planned(with_base(tmp_path / "ws", **WIDE), "chat", **QLORA))


def test_it_is_refused_on_two_workers() -> None:
    with pytest.raises(PtwError, match="on one worker"):
        demand_sense(AdapterSettings(adapter="qlora"), shape=False, world=2)


def test_the_blocks_matrices_are_packed_and_nothing_else(tmp_path: Path) -> None:
    """Targeted or not; what is unpacked again gives the logits of what computes, and the right gradients."""
    pytest.importorskip("bitsandbytes")
    base = with_base(tmp_path / "ws", **WIDE) / "base"
    settings = AdapterSettings(adapter="qlora", lora_targets=["q_proj"])
    packed = adapt(load(base, None), settings, 0, ALONE.device)
    assert "in NF4, 9." in packed.notes[0]  # percent: what it costs normal weights
    bytes_of = {name: own.dtype for name, own in packed.module.named_parameters() if "lora" not in name}
    assert {name for name, dtype in bytes_of.items() if dtype == torch.uint8} == {
        name for name in bytes_of if "_proj" in name
    }
    plain = adapt(load(base, None), AdapterSettings(adapter="lora", lora_targets=["q_proj"]), 0, ALONE.device)
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


def test_weights_that_do_not_come_back_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    right = quantise.NF4.unpacked
    monkeypatch.setattr(quantise.NF4, "unpacked", lambda self, weight: right(self, weight).roll(1, 0))
    with pytest.raises(PtwError, match=r"does not give model\.layers\.0\.self_attn\.q_proj of shape"):
        trained(planned(with_base(tmp_path / "ws", **WIDE), "chat", **QLORA))
