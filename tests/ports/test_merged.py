"""An adapter on every port in models/ is PEFT's, and merged it is the same in plain transformers."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from ptw.errors import PtwError
from ptw.nn.layout import Layout
from ptw.ports import adapter, adapting
from ptw.ports.adapter import Settings
from ptw.ports.export import export
from ptw.ports.load import create, load
from ptw.train.adapted import AdapterSettings, begin
from ptw.workspace import rooms
from tests.ports.test_spread import config_of

# peft still asks transformers by old names
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LIMIT = 1e-10
IDS = torch.randint(3, 60, (1, 20), generator=torch.Generator().manual_seed(5))
REFUSED = {"gpt2": "c_attn"}  # its matrices are transposed: no layer of PEFT's is one of the port's


def base_of(port: str, folder: Path) -> Path:
    export(create(config_of(port, tie_word_embeddings=False), None, seed=3, dtype=torch.float64), folder)
    return folder


def reference(folder: Path) -> Any:
    exact = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, **exact)


def is_near(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max().item()


@pytest.mark.parametrize("port", sorted(rooms.files(None, "models").keys() - REFUSED))
def test_a_merged_adapter_says_what_peft_says(port: str, tmp_path: Path) -> None:
    """Of every linear layer that can have one, in exact arithmetic."""
    loaded = load(base_of(port, tmp_path / "base"), None, dtype=torch.float64)
    settings = Settings(3, 6, adapting.all_linear(loaded), use_rslora=True)
    adapting.begin(loaded, settings, seed=1)
    names = {layer.checkpoint_name for layer in adapter.attached(loaded.module).values()}
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, own in adapter.parameters(loaded.module).items():
            own.copy_(torch.randn(own.shape, generator=random) / 5)
            assert name.removeprefix(adapter.PREFIX).rpartition(".lora")[0] in names
    adapter.save(loaded.module, settings, tmp_path / "adapter")
    state, lost = adapting.merged(loaded.module, loaded.module.state_dict(), None)
    export(loaded, tmp_path / "merged", state=state)
    with torch.no_grad():
        plain = reference(tmp_path / "base").eval()(IDS).logits
        on_base = peft.PeftModel.from_pretrained(reference(tmp_path / "base"), tmp_path / "adapter")
        theirs = on_base.double().eval()(IDS).logits
        merged = reference(tmp_path / "merged").eval()(IDS).logits
        ours = loaded.module.head().logits(loaded.module.eval()(IDS, Layout.of_documents([[20]])))
    assert is_near(plain, theirs) > 1
    assert is_near(merged, theirs) < LIMIT
    assert is_near(ours, theirs) < 1e-6  # norms compute in fp32, ours and theirs
    assert lost == 0


@pytest.mark.parametrize("port", REFUSED)
def test_a_port_without_such_layers_refuses_an_adapter(port: str, tmp_path: Path) -> None:
    loaded = load(base_of(port, tmp_path / "base"), None, dtype=torch.float64)
    with pytest.raises(PtwError, match=f"{port} has no linear layer"):
        begin(loaded, AdapterSettings(adapter="lora"), 0, torch.device("cpu"))
    config = peft.LoraConfig(r=3, target_modules=[REFUSED[port]], fan_in_fan_out=True, task_type="CAUSAL_LM")
    peft.get_peft_model(reference(tmp_path / "base"), config).save_pretrained(tmp_path / "theirs")
    with pytest.raises(PtwError, match="fan_in_fan_out = True is not implemented"):
        adapter.read(tmp_path / "theirs")
    name = f"transformer.h.0.attn.{REFUSED[port]}"
    theirs = adapter.Adapter(Settings(3, 6, (REFUSED[port],)), {name: (torch.ones(3, 32), torch.ones(96, 3))})
    with pytest.raises(PtwError, match=f"{name}: there is no linear layer .* Transpose makes it"):
        adapter.attach(loaded, theirs)
