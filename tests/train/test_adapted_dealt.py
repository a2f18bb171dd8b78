"""An adapter learns on a base whose heads or experts are dealt to two workers as it learns on one."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from ptw.ports import adapter
from ptw.ports.load import Loaded, load
from ptw.ports.parallel import held, local
from ptw.ports.weights import Operator
from ptw.runs import record
from ptw.train import checkpoint
from ptw.train.adapted import AdapterSettings, begin
from ptw.train.group import Group
from ptw.train.parallel import spreading
from ptw.train.plan import LOCAL, Plan
from ptw.workspace.manifest import ClusterEntry
from tests.train.conftest import planned, steps_of, together, trained
from tests.train.test_adapted import IDS, LORA, SIZES, is_near, on_reference, with_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SETTINGS = LORA | {"rows": 3, "rows_at_once": 1, "checkpoint_every": 2}


def dealt(plan: Plan, **how: int) -> Plan:
    """The plan, for two workers."""
    return placed(plan, ClusterEntry("pair", workers=2, **how))  # type: ignore[arg-type]


def placed(plan: Plan, cluster: ClusterEntry) -> Plan:
    plan = dataclasses.replace(plan, cluster=cluster)
    record.change(plan.run_folder(), plan=plan.as_json())
    return plan


def losses_of(folder: Path) -> list[float]:
    return [line["loss"] for line in steps_of(folder)]


def published(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(folder / "adapter" / adapter.TENSORS)
    return tensors


def demand_equal(ours: Path, theirs: Path, base: Path) -> None:
    assert losses_of(ours) == pytest.approx(losses_of(theirs), rel=1e-6)
    norms = [[line["gradient_norm"] for line in steps_of(folder)] for folder in (ours, theirs)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    expected = on_reference(base, theirs / "adapter")
    assert is_near(on_reference(base, ours / "adapter"), expected) < 1e-4
    exported: Any = AutoModelForCausalLM.from_pretrained(ours / "model", experts_implementation="eager")
    exported = exported.double().eval()
    with torch.no_grad():
        assert is_near(exported(IDS).logits, on_reference(base, ours / "adapter")) < 1e-6


@pytest.mark.slow
def test_on_dealt_heads_an_adapter_learns_as_on_one_worker_and_goes_on_there(tmp_path: Path) -> None:
    root = with_base(tmp_path / "ws")
    one = trained(planned(root, "chat", **SETTINGS))
    plan = dealt(planned(root, "chat", **SETTINGS), tensor=2)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    folder = plan.run_folder()
    demand_equal(folder, one.folder, root)
    of_two = published(folder)
    shutil.rmtree(checkpoint.complete(folder)[-1])
    record.change(folder, state="running")
    trained(placed(plan, LOCAL))
    assert len(losses_of(folder)) == 6
    demand_equal(folder, one.folder, root)
    of_one = published(folder)
    assert all(is_near(of_one[name], of_two[name]) < 1e-4 for name in of_two)


@pytest.mark.usefixtures("four")
def test_beneath_an_adapter_too_a_worker_has_in_memory_only_what_it_holds(tmp_path: Path) -> None:
    root = with_base(tmp_path / "ws")
    settings, cpu = AdapterSettings(adapter="lora"), torch.device("cpu")

    def prepare(bare: Loaded) -> Sequence[Operator]:
        operators = begin(bare, settings, 0, cpu)
        assert all(one.is_meta for one in bare.module.parameters())
        return operators

    spread = spreading(ClusterEntry("four", workers=4), Group(0, 4, cpu), "fp32", "the model")
    dealt = load(root / "base", root, prepare=prepare, spread=spread)
    one = load(root / "base", root)
    begin(one, settings, 0, cpu)
    whole = dict(one.module.named_parameters())
    for name, part in dealt.module.named_parameters():
        assert torch.equal(local(part), whole[name][held(part)])
    parts = sum(local(part).numel() for part in dealt.module.parameters())
    assert parts < 0.26 * sum(each.numel() for each in whole.values())


def with_sparse_base(root: Path, **sizes: int) -> Path:
    """A base with experts, which stay frozen beneath an adapter."""
    with_base(root)
    torch.manual_seed(3)
    experts = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    config = Qwen3MoeConfig(**SIZES | sizes, **experts, norm_topk_prob=True)
    shutil.rmtree(root / "base")
    Qwen3MoeForCausalLM(config).save_pretrained(root / "base")
    return root


@pytest.mark.slow
def test_on_shared_experts_an_adapter_learns_as_on_one_worker(tmp_path: Path) -> None:
    root = with_sparse_base(tmp_path / "ws")
    one = trained(planned(root, "chat", **SETTINGS))
    plan = dealt(planned(root, "chat", **SETTINGS), experts=2)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    demand_equal(plan.run_folder(), one.folder, root)


@pytest.mark.slow
def test_in_bf16_an_adapter_learns_on_dealt_heads(tmp_path: Path) -> None:
    root = with_base(tmp_path / "ws")
    plan = dealt(planned(root, "chat", **SETTINGS, precision="bf16"), tensor=2)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    losses = losses_of(plan.run_folder())
    assert losses[-1] < losses[0] - 0.1
