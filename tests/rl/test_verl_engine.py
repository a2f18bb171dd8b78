"""A port as verl's actor: its steps are those of verl's own engine on transformers' class."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

pytestmark = pytest.mark.rl
HERE = Path(__file__).parent
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": f"{HERE}:{HERE.parents[1]}",
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "verl_on_cpu",
}


@pytest.fixture(scope="module", params=["llama", "qwen3-tied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("verl") / request.param
    made: Any = LlamaForCausalLM(LlamaConfig(**SIZES))
    if request.param == "qwen3-tied":
        made = Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True))
    made.save_pretrained(folder)
    return folder


def after_steps(vendor: str, world: int, checkpoint: Path, target: Path) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run(HERE / "verl_steps.py", vendor, world, checkpoint, target, port)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = torch.load(target, weights_only=False)
    return found


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("world", [1, 2])
def test_its_steps_are_those_of_transformers_class(checkpoint: Path, tmp_path: Path, world: int) -> None:
    own = after_steps("ptw", world, checkpoint, tmp_path / "own")
    theirs = after_steps("verl", 1, checkpoint, tmp_path / "theirs")
    assert own["norms"] == pytest.approx(theirs["norms"], rel=1e-5)
    if world == 1:
        flat = [loss for one in theirs["losses"] for loss in one]
        assert [loss for one in own["losses"] for loss in one] == pytest.approx(flat, rel=1e-5)
    assert set(own["tensors"]) <= set(theirs["tensors"]), "vLLM gets the checkpoint's names"
    for name, tensor in own["tensors"].items():
        torch.testing.assert_close(tensor, theirs["tensors"][name], rtol=1e-4, atol=1e-4)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "own.checkpoint" / "huggingface" / "model")
    for name, tensor in saved.state_dict().items():
        if name in own["tensors"]:
            assert torch.equal(tensor, own["tensors"][name])


REFUSED = """
import verl_on_cpu
from ptw.rl.verl_engine import PortEngine
from verl.workers.config import FSDPEngineConfig, HFModelConfig
engine = object.__new__(PortEngine)
engine.engine_config = FSDPEngineConfig(strategy="fsdp2")
engine.model_config = HFModelConfig(path={path!r}, load_tokenizer=False, lora_rank=8)
engine._build_module()
"""


def test_what_the_engine_has_not_is_refused(checkpoint: Path) -> None:
    done = run("-c", REFUSED.format(path=str(checkpoint)))
    assert "PtwError: verl: model.lora_rank: ptw's engine has none" in done.stderr
