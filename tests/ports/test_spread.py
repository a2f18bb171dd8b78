"""Processes that hold a model between them compute what one computes, or the port is refused by name."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from ptw.ports.load import create
from ptw.workspace import rooms
from tests import side_by_side
from tests.ports.spread import VOCABULARY, loss_of

LIMIT = 1e-6  # the ports' norms compute in fp32; a head at the wrong place, or one too many, shows at 1e-1
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
REFUSED = {
    "gpt2": "transformer.h.0.attn.c_attn (96 rows) is a projection that ptw cannot cut",
    "phi3": "model.layers.0.self_attn.qkv_proj (64 rows) is a projection that ptw cannot cut",
    "olmo2": "model.layers.0.self_attn.q_norm.weight (32,) belongs to all heads at once",
    "minimax_m2": "model.layers.0.self_attn.q_norm.weight (32,) belongs to all heads at once",
}
SPARSE = ("dots1", "gpt_oss", "minimax_m2", "mixtral", "qwen2_moe", "qwen3_moe")
BIASED = {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}


def config_of(model_type: str, **values: object) -> dict[str, Any]:
    plain = AutoConfig.for_model(model_type)
    given = SIZES | (LATENT if model_type == "minicpm3" else {}) | values
    config = AutoConfig.for_model(model_type, **{k: v for k, v in given.items() if hasattr(plain, k)})
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in found.items() if not key.startswith("_")}


def spread(folder: Path, world: int, cases: Mapping[str, object]) -> dict[str, Any]:
    """What `world` processes found of each case."""
    (folder / "cases.json").write_text(json.dumps(cases))
    side_by_side.run("tests.ports.spread", folder / "cases.json", folder / "out.json", world=world)
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def demand_equal(name: str, found: dict[str, float], held: float) -> None:
    """held: the largest part of the model that a process may hold."""
    assert all(found[key] <= LIMIT for key in ("loss", "gradients", "norm")), f"{name}: {found}"
    assert found["held"] <= held, f"{name}: {found}"


def test_two_processes_compute_every_port_as_one_or_refuse_it(tmp_path: Path) -> None:
    cases = {name: {"config": config_of(name), "tensor": 2} for name in rooms.files(None, "models")}
    cases["biased"] = {"config": config_of("llama", **BIASED), "tensor": 2}
    cases["copies"] = {"config": config_of("llama", tie_word_embeddings=True), "replicas": 2}
    cases["an adapter"] = {"config": config_of("llama", **BIASED), "tensor": 2, "adapted": True}
    cases["an adapter on a latent"] = {"config": config_of("minicpm3"), "tensor": 2, "adapted": True}
    cases["one key"] = {"config": config_of("llama", num_key_value_heads=1), "tensor": 2}
    cases["a norm a head"] = {"config": config_of("stablelm", qk_layernorm=True), "tensor": 2}
    refused = REFUSED | {
        "one key": "self_attn.k_proj has 1 key heads, which cannot be dealt to 2",
        "a norm a head": "self_attn.q_layernorm.norms.0.weight (8,) belongs to all heads at once",
    }
    found = spread(tmp_path, 2, cases)
    for name, said in found.items():
        if name in refused:
            assert isinstance(said, str), f"{name} is not refused: {said}"
            assert refused[name] in said
            assert "set tensor = 1" in said
        else:
            assert isinstance(said, dict), f"{name} is refused: {said}"
            demand_equal(name, said, held=1.0 if name == "copies" else 0.95)


@pytest.mark.slow
def test_two_processes_share_the_experts_of_every_port_that_has_some(tmp_path: Path) -> None:
    cases = {name: {"config": config_of(name), "experts": 2} for name in SPARSE}
    one_expert = config_of("qwen3_moe", num_experts_per_tok=1)
    cases["skewed"] = {"config": one_expert, "experts": 2, "skewed": True}
    cases["an adapter"] = {"config": config_of("qwen3_moe"), "experts": 2, "adapted": True}
    cases["dense"] = {"config": config_of("llama"), "experts": 2}
    cases["three"] = {"config": config_of("mixtral", num_local_experts=3, num_experts=3), "experts": 2}
    found = spread(tmp_path, 2, cases)
    assert "it has no experts that could be dealt; set experts = 1" in found.pop("dense")
    assert "model.layers.0.mlp.experts has 3 experts, which cannot be dealt to 2" in found.pop("three")
    for name, said in found.items():
        demand_equal(name, said, held=0.51)
    assert found["skewed"]["idle"] >= 0.5  # all of the second process's, in each block


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_two_processes_compute_what_is_compiled_as_one_computes_it_plain(tmp_path: Path) -> None:
    llama = {"config": config_of("llama"), "compiled": True}
    cases = {"shards": llama, "heads": llama | {"tensor": 2}}
    cases["experts"] = {"config": config_of("qwen3_moe"), "experts": 2, "compiled": True}
    for name, said in spread(tmp_path, 2, cases).items():
        demand_equal(name, said, held=0.95)


@pytest.mark.parametrize("name", SPARSE)
def test_under_autocast_experts_compute_in_its_dtype(name: str) -> None:
    """So does one worker with precision = "bf16", where two cast what they gather."""
    module: Any = create(config_of(name), None, seed=1).module
    losses, gradients = [], []
    for wanted in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=wanted):
            loss = loss_of(module, 0, 1)
        loss.backward()
        learnt = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        losses.append(loss.item())
        gradients.append(torch.cat(learnt))
        module.zero_grad()
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert (gradients[1] - gradients[0]).norm() <= 0.1 * gradients[0].norm()


def test_every_port_whose_experts_are_stacked_is_tried(tmp_path: Path) -> None:
    files = rooms.files(None, "models")
    assert {name for name, file in files.items() if "grouped_linear" in file.read_text()} == set(SPARSE)


@pytest.mark.slow
def test_four_processes_compute_what_one_computes(tmp_path: Path) -> None:
    shapes = {
        "shards": ({}, 0.25),
        "hybrid": ({"replicas": 2}, 0.5),
        "copies": ({"replicas": 4}, 1.0),
        "heads and shards": ({"tensor": 2}, 0.35),
        "heads and copies": ({"tensor": 2, "replicas": 2}, 0.65),
    }
    llama = config_of("llama", **BIASED)
    cases = {name: {"config": llama, **degrees} for name, (degrees, _) in shapes.items()}
    shapes["experts and shards"], shapes["experts and copies"] = ({}, 0.26), ({}, 0.51)
    cases["experts and shards"] = {"config": config_of("qwen3_moe"), "experts": 2}
    cases["experts and copies"] = {"config": config_of("mixtral"), "experts": 2, "replicas": 2}
    cases |= {name: {"config": config_of(name), "tensor": 2} for name in ("gpt_neox", "minicpm3", "gpt_oss")}
    for name, said in spread(tmp_path, 4, cases).items():
        demand_equal(name, said, held=shapes[name][1] if name in shapes else 0.5)
