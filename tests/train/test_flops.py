"""The FLOPs of a step are those that torch counts when the same model is computed plainly."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from ptw.data.pack import PackedRow
from ptw.errors import PtwError
from ptw.nn import attention, experts
from ptw.nn.head import IGNORED
from ptw.nn.layout import Layout
from ptw.ports import adapter
from ptw.ports.fallback import ReferenceModel
from ptw.ports.load import Loaded, create
from ptw.runs import lines, record
from ptw.runs.figures import Figures
from ptw.runs.page import as_html
from ptw.train import peaks, weights
from ptw.train.feed import StepRows
from ptw.train.flops import Work, pairs, work_of
from ptw.train.group import Group
from ptw.train.meter import Meter
from tests.train.conftest import planned, steps_of, trained
from tests.train.test_adapted import with_base

SHAPE = {"vocab_size": 70, "hidden_size": 32, "num_hidden_layers": 3}
INNER = {"intermediate_size": 48}
HEADS = {**INNER, "num_attention_heads": 4, "num_key_value_heads": 2}
ROUTED = {"num_experts_per_tok": 2, "head_dim": 12}
WINDOWED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 5}
LATENT = {"q_lora_rank": 10, "kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": HEADS,
    "gpt_neox": {**INNER, "num_attention_heads": 4},
    "gpt2": {"num_attention_heads": 4, "n_inner": 48, "add_cross_attention": True},  # held, never used
    "qwen3_moe": {**HEADS, **ROUTED, "num_experts": 6, "moe_intermediate_size": 20, "mlp_only_layers": [1]},
    "gpt_oss": {**HEADS, **ROUTED, **WINDOWED, "num_local_experts": 6},
    "gemma3_text": {**HEADS, **WINDOWED, "head_dim": 12},
    "gemma2": {**HEADS, **WINDOWED, "head_dim": 12, "attn_logit_softcapping": 5.0},
    "minicpm3": {**INNER, "num_attention_heads": 4, **LATENT, "v_head_dim": 7},
}
LENGTHS = [[9, 4], [13]]
LEARNT = 11


def model_of(family: str, **more: Any) -> Loaded:
    return create({"model_type": family, **SHAPE, **FAMILIES[family], **more}, None, seed=0)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention and experts as one writes them down: all pairs of a document, each row once."""

    def attended(query: Tensor, key: Tensor, value: Tensor, layout: Layout, how: Any) -> Tensor:
        groups = query.shape[2] // key.shape[2]
        key, value = (x.repeat_interleave(groups, dim=2) for x in (key, value))
        parts = [x.flatten(0, 1).split(layout.pieces) for x in (query, key, value)]
        found = []
        for q, k, v in zip(*parts, strict=True):
            scores = q.transpose(0, 1) @ k.permute(1, 2, 0) * how.scale
            found.append((scores.softmax(-1) @ v.transpose(0, 1)).transpose(0, 1))
        return torch.cat(found).view(*query.shape[:3], -1)

    def grouped(rows_RI: Tensor, weight_EOI: Tensor, groups: Any, bias_EO: Tensor | None) -> Tensor:
        expert_R, out = groups.experts(), rows_RI.new_zeros(len(rows_RI), weight_EOI.shape[1])
        real_R = torch.zeros(len(rows_RI), dtype=torch.bool)
        real_R[groups.row_TK.flatten()] = True
        for expert, weight_OI in enumerate(weight_EOI):
            own_R = real_R & (expert_R == expert)
            out = out.index_put((own_R.nonzero()[:, 0],), rows_RI[own_R] @ weight_OI.T)
        return out

    def summed(groups: Any, out_RD: Tensor, weight_TK: Tensor) -> Tensor:
        return (out_RD[groups.row_TK] * weight_TK[..., None]).sum(1)

    monkeypatch.setattr(attention, "_attended", attended)
    monkeypatch.setattr(experts, "_grouped_linear", grouped)
    monkeypatch.setattr(experts.Groups, "sum", summed)


def counted(module: nn.Module) -> int:
    """Forward and backward, by torch: attention over all pairs of each document."""
    layout = Layout.of_documents(LENGTHS, backend="documents")
    ids = torch.arange(26).view(2, 13) % 60
    learnt = torch.arange(26).view(2, 13) < LEARNT
    head: Any = module.head()
    with FlopCounterMode(display=False) as counter:
        logits = head.logits(module(ids, layout)[learnt])
        functional.cross_entropy(logits, ids[learnt]).backward()
    return counter.get_total_flops()


def expected(work: Work) -> float:
    squares = sum(length * length for row in LENGTHS for length in row)
    attention = sum(work.per_pair.values()) * squares
    return work.per_token * 26 + work.per_target * LEARNT + attention


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_worth_what_torch_counts(family: str, plain: None) -> None:
    module = model_of(family).module
    assert counted(module) == expected(work_of(module))


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gemma3_text"])
@pytest.mark.parametrize("last_only", [False, True], ids=["all-layers", "last-layer"])
def test_frozen_matrices_have_no_gradient_product(family: str, last_only: bool, plain: None) -> None:
    loaded = model_of(family)
    before = work_of(loaded.module)
    for parameter in loaded.module.parameters():
        parameter.requires_grad_(False)
    layers = [2] if last_only else [0, 1, 2]
    names = [f"model.layers.{layer}.self_attn.{part}_proj" for layer in layers for part in ("q", "v")]
    shapes = [loaded.module.get_submodule(name).weight.shape for name in names]  # type: ignore[union-attr]
    matrices = {
        name: (torch.randn(2, i), torch.randn(o, 2)) for name, (o, i) in zip(names, shapes, strict=True)
    }
    settings = adapter.Settings(r=2, lora_alpha=2, target_modules=("q_proj", "v_proj"))
    adapter.attach(loaded, adapter.Adapter(settings, matrices))
    work = work_of(loaded.module)
    assert counted(loaded.module) == expected(work)
    share = work.per_token / before.per_token
    # a full adapter saves a third of the frozen; below the only trained layer there is no backward at all
    assert 0.4 < share < 0.6 if last_only else 0.6 < share < 0.8
    assert work.per_target == before.per_target * 2 / 3


def test_experts_that_a_token_did_not_choose_cost_nothing() -> None:
    few, many = (work_of(model_of("qwen3_moe", num_experts=count).module) for count in (4, 12))
    router = 2 * 3 * 2 * 8 * SHAPE["hidden_size"]  # of eight more, in two layers
    assert many.per_token - few.per_token == router
    one = work_of(model_of("qwen3_moe", num_experts_per_tok=1).module)
    expert = 2 * 3 * 2 * 3 * 20 * SHAPE["hidden_size"]  # three matrices, in two layers
    assert work_of(model_of("qwen3_moe").module).per_token - one.per_token == expert


@pytest.mark.parametrize("window", [None, 1, 3, 40])
@pytest.mark.parametrize("length", [1, 3, 17])
def test_pairs_are_those_that_the_mask_leaves(length: int, window: int | None) -> None:
    position = torch.arange(length)
    distance = position[:, None] - position
    allowed = (distance >= 0) & (distance < (length if window is None else window))
    assert pairs(length, window) == allowed.sum()


def test_a_window_bounds_what_a_long_document_costs() -> None:
    work = work_of(model_of("gemma3_text").module)
    pair = 2 * 4 * (12 + 12) * 3  # four heads, scores and values, forward and twice backward
    assert work.per_pair == {5: 2 * pair, None: pair}
    step = work.step([[100]], 0) - 100 * work.per_token
    assert step == 2 * pair * (15 + 95 * 5) + pair * 5050
    assert work.step([[50, 50]], 7) < work.step([[100]], 7)


def test_mfu_is_the_work_of_a_step_over_what_all_devices_could_do() -> None:
    work = work_of(model_of("llama").module)
    rows = (PackedRow((1,) * 12, (1,) * 10 + (IGNORED,) * 2, (7, 4), ("a", "b")),)
    alone = Group(0, 1, torch.device("cpu"))
    found = Meter(work, 1e9, alone).measured(StepRows(rows, learnt=10), seconds=0.5, feed_seconds=0.125)
    assert found["flops"] == work.step([[7, 4]], 10)
    assert found["mfu"] == found["flops"] / 0.5 / 1e9
    assert found["feed_seconds"] == 0.125
    assert found["memory_bytes"] > 50e6  # torch alone takes as much
    assert found["reserved_bytes"] is None
    assert Meter(work, None, alone).measured(StepRows(rows, 10), 0.5, 0.1)["mfu"] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_memory_is_worth_the_same(family: str) -> None:
    module = model_of(family).module
    assert work_of(module) == work_of(copy.deepcopy(module).to("meta"))


def test_counting_leaves_no_trace() -> None:
    loaded = model_of("llama")
    state = torch.get_rng_state()
    work_of(loaded.module)
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in loaded.module.parameters())


SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
WITHOUT_PORT = FAMILIES | {
    "minicpm3": FAMILIES["minicpm3"] | {"num_key_value_heads": 4},
    "mistral": HEADS | {"sliding_window": 5, "head_dim": 8},
    "qwen2_moe": FAMILIES["qwen3_moe"] | SLIDING | {"shared_expert_intermediate_size": 20},
    "qwen3": HEADS | SLIDING | {"head_dim": 12},
}


@pytest.mark.parametrize("family", WITHOUT_PORT)
def test_a_model_without_a_port_is_worth_the_same(family: str) -> None:
    """Eager attention, and a window that is but a mask, are counted as the port's are."""
    given = WITHOUT_PORT[family] | {"tie_word_embeddings": False}
    config = AutoConfig.for_model(family, **SHAPE, **given).to_dict()
    reference = ReferenceModel(AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)))
    before = reference.reference.config._attn_implementation
    assert work_of(reference) == work_of(create(config, None, seed=0).module)
    assert reference.reference.config._attn_implementation == before


CHUNKS = {"attention_chunk_size": 8, "intermediate_size_mlp": 48, "head_dim": 8}
UNKNOWN: dict[str, dict[str, Any]] = {
    "bloom": {"n_head": 4},  # attention of its own
    "llama4_text": HEADS | CHUNKS | {"num_local_experts": 2},  # which sees its chunk, not a window
    "mamba": {"state_size": 8},
    "qwen3_next": HEADS | ROUTED | {"num_experts": 4, "moe_intermediate_size": 20},
}


@pytest.mark.parametrize("family", UNKNOWN)
def test_what_cannot_be_counted_is_not_said(family: str) -> None:
    config = AutoConfig.for_model(family, **SHAPE, pad_token_id=0, **UNKNOWN[family])
    reference = ReferenceModel(AutoModelForCausalLM.from_config(config))
    assert work_of(reference) is None
    found = Meter(None, 1e9, Group(0, 1, torch.device("cpu"))).measured(StepRows((), 0), 0.5, 0.1)
    assert (found["flops"], found["mfu"]) == (None, None)


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_a_run_without_a_port_says_why_its_mfu_is_a_dash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setenv(peaks.OVERRIDE, "0.1")
    root = with_base(tmp_path / "ws", port="hf")
    if family == "mamba":
        config = AutoConfig.for_model("mamba", **SHAPE | {"vocab_size": 300}, pad_token_id=0, state_size=8)
        AutoModelForCausalLM.from_config(config).save_pretrained(root / "base")
    found = trained(planned(root, "chat", steps=2))
    said = [event["text"] for event in lines.read(found.folder / record.EVENTS)[0]]
    steps = steps_of(found.folder)
    assert (weights.UNCOUNTED in said) == (family == "mamba")
    assert Figures.of(steps).texts()["MFU"].endswith("-" if family == "mamba" else "%")
    assert all((step["flops"] is None) == (family == "mamba") for step in steps)
    assert "MFU" in as_html(found)


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H20", "bf16", 148),
        ("NVIDIA GH200 480GB", "fp32", 67),
        ("NVIDIA GB200", "bf16", 2500),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA A10G", "bf16", 70),
        ("AMD Instinct MI300X", "bf16", 1307.4),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("Tesla T4", "bf16", None),
        ("NVIDIA Z9000", "fp32", None),
    ],
)
def test_a_device_is_known_by_its_own_name(name: str, precision: str, teraflops: float | None) -> None:
    assert peaks.of_name(name, precision) == (None if teraflops is None else teraflops * 1e12)


def test_nobody_knows_what_a_cpu_could_do_unless_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peaks.peak(torch.device("cpu"), "fp32") is None
    monkeypatch.setenv(peaks.OVERRIDE, "0.5")
    assert peaks.peak(torch.device("cpu"), "fp32") == 0.5e12
    monkeypatch.setenv(peaks.OVERRIDE, "fast")
    with pytest.raises(PtwError, match="PTW_PEAK_TFLOPS = 'fast'"):
        peaks.peak(torch.device("cpu"), "fp32")
