"""A port as verl's actor: its steps are those of verl's own engine on transformers' class."""

import json
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


ASKED = {
    "model.lora_rank": ({"lora_rank": 8}, {}),
    "model.use_fused_kernels": ({"use_fused_kernels": True}, {}),
    "model.use_liger": ({"use_liger": True}, {}),
    "offload_policy": ({}, {"offload_policy": True}),
    "qat.enable": ({}, {"qat": {"enable": True}}),
    "ulysses_sequence_parallel_size": ({}, {"ulysses_sequence_parallel_size": 2}),
}
REFUSED = """
import json, sys
import verl_on_cpu
from ptw.errors import PtwError
from ptw.rl.verl_engine import PortEngine
from verl.workers.config import FSDPEngineConfig, HFModelConfig, QATEngineConfig

def said(model, engine):
    qat = QATEngineConfig(**engine.pop("qat", {}))
    made = object.__new__(PortEngine)
    made.engine_config = FSDPEngineConfig(strategy="fsdp2", qat=qat, **engine)
    made.model_config = HFModelConfig(path=sys.argv[1], load_tokenizer=False, **model)
    try:
        made._demand_known()
    except PtwError as error:
        return str(error)

asked = json.loads(sys.argv[2])
print(json.dumps({key: said(*values) for key, values in asked.items()}))
"""


def printed(script: str, *arguments: object) -> Any:
    done = run("-c", script, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("checkpoint", ["llama"], indirect=True)
def test_what_the_engine_has_not_is_refused(checkpoint: Path) -> None:
    found = printed(REFUSED, checkpoint, json.dumps({**ASKED, "nothing": ({}, {})}))
    assert found.pop("nothing") is None
    for key in ASKED:
        assert found[key] == f"verl: {key}: ptw's engine has none; leave it out, or VERL_ENGINE_VENDOR"


PACKED = """
import json, sys
from pathlib import Path
import torch
import verl_on_cpu
from ptw.errors import PtwError
from ptw.ports.load import load
from ptw.rl.verl_engine import PackedModel

lengths, ids = [7, 5, 4], torch.arange(1, 17)[None]
model = PackedModel(load(Path(sys.argv[1]), None).module, None)
anew = torch.cat([torch.arange(length) for length in lengths])[None]
ends = torch.tensor([0, 7, 12, 16])
logits = lambda **given: model(ids, **given).logits
alone = torch.cat([model(one).logits for one in ids.split(lengths, 1)], 1)
near = lambda one, other: torch.allclose(one, other, atol=1e-5)
try:
    said = str(logits(position_ids=anew).shape)
except PtwError as error:
    said = str(error)
print(json.dumps({
    "by the ends": near(logits(position_ids=anew, cu_seqlens=ends), alone),
    "by the ends on the CPU": near(logits(cu_seqlens=ends, cu_seqlens_cpu=ends), alone),
    "one document": near(logits(position_ids=torch.arange(16)[None]), logits()),
    "is another": not near(logits(), alone),
    "begins anew": "begin anew within a row, but neither cu_seqlens nor attention_mask" in said,
}))
"""


@pytest.mark.parametrize("checkpoint", ["llama"], indirect=True)
def test_documents_of_a_row_end_where_verl_says_or_the_row_is_refused(checkpoint: Path) -> None:
    assert all(printed(PACKED, checkpoint).values())
