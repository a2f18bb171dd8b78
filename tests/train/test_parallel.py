"""A cluster's plan changes who computes what, and no number: heads dealt, copies, blocks computed again."""

from pathlib import Path

import pytest
import torch

from ptw.errors import PtwError
from ptw.runs import record
from ptw.runs.open import open_named
from ptw.train import checkpoint, launch
from ptw.train.group import Group
from ptw.workspace.manifest import read
from tests import side_by_side
from tests.train import across
from tests.train.conftest import curve_of, make_workspace, planned, samples_of, steps_of, together, trained

ALONE = Group(0, 1, torch.device("cpu"))


def workspace(root: Path, *lines: str, **settings: str) -> Path:
    """With these lines in its [clusters.pair]."""
    make_workspace(root, recipe="pretrain")
    toml = (root / "workspace.toml").read_text()
    for old, new in settings.items():
        toml = toml.replace(old, new)
    (root / "workspace.toml").write_text(toml.replace("workers = 2", "\n".join(["workers = 2", *lines])))
    return root


def losses_of(folder: Path) -> list[float]:
    return [line["loss"] for line in steps_of(folder)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> record.RunRecord:
    """The run of one worker."""
    return trained(planned(workspace(tmp_path_factory.mktemp("alone") / "ws"), "next", steps=12))


def test_neighbours_that_deal_heads_give_the_curve_of_one(tmp_path: Path, alone: record.RunRecord) -> None:
    root = workspace(tmp_path / "ws", "tensor = 2", "recompute = true")
    plan = planned(root, "next-on-two", steps=12)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    folder = plan.run_folder()
    assert losses_of(folder) == pytest.approx(losses_of(alone.folder), rel=1e-6)
    assert [digest for *_, digest in curve_of(folder)] == [digest for *_, digest in curve_of(alone.folder)]
    assert samples_of(folder) == samples_of(alone.folder)  # once, though two computed them
    measured = [[line for line in lines_of(f) if line["kind"] == "eval"] for f in (folder, alone.folder)]
    assert [sorted(line) for line in measured[0]] == [sorted(line) for line in measured[1]]
    assert measured[0][-1]["validation_ndcg@10"] == pytest.approx(measured[1][-1]["validation_ndcg@10"])
    demand_near(folder, alone.folder)


def lines_of(folder: Path) -> list[dict[str, object]]:
    from ptw.runs import lines

    return lines.read(folder / record.METRICS)[0]


@pytest.mark.parametrize("dealt", ["tensor", "experts"])
def test_a_checkpoint_goes_from_one_to_two_and_back_to_the_bit(tmp_path: Path, dealt: str) -> None:
    module, optimizer = across.opened(ALONE, seed=1)
    across.train(module, optimizer, 2, ALONE)
    folder = checkpoint.save(tmp_path, 1, checkpoint.contents(module, optimizer), {}, ALONE)
    mine = across.contents(module, optimizer)
    side_by_side.run("tests.train.across", folder, tmp_path / "two", dealt, world=2)
    theirs = torch.load(tmp_path / "two" / "found.pt", weights_only=True)
    demand_same(theirs["loaded"], mine)
    expected = across.train(module, optimizer, 3, ALONE)
    assert theirs["losses"].tolist() == pytest.approx(expected, rel=1e-6)
    back, back_optimizer = across.opened(ALONE, seed=9)
    checkpoint.load(checkpoint.complete(tmp_path / "two")[0], back, back_optimizer)
    demand_same(across.contents(back, back_optimizer), theirs["trained"])


def demand_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data warns of its own defaults
def test_a_cluster_deals_heads_on_ray(ray: None, tmp_path: Path, alone: record.RunRecord) -> None:
    root = workspace(tmp_path / "ws", "tensor = 2")
    folder = launch.train(read(root), "next-on-two", {"steps": "12"}, resume=False)
    assert record.read(folder).state == "done"
    assert losses_of(folder) == pytest.approx(losses_of(alone.folder), rel=1e-6)


@pytest.mark.slow
def test_heads_that_cannot_be_dealt_are_refused_before_weights_are_read(tmp_path: Path) -> None:
    root = workspace(tmp_path / "ws", "tensor = 2", **{"num_key_value_heads = 2": "num_key_value_heads = 1"})
    plan = planned(root, "next-on-two")
    said = [done.stderr for done in together(plan, 2)]
    what = "model tiny (port llama): tensor = 2: model.layers.0.self_attn.k_proj has 1 key heads"
    assert f"{what}, which cannot be dealt to 2; set tensor = 1\n" in said[0]
    assert record.read(plan.run_folder()).state == "failed"


def test_a_number_of_workers_that_the_plan_does_not_divide_is_refused(tmp_path: Path) -> None:
    plan = planned(workspace(tmp_path / "ws", "tensor = 2"), "next-on-two")
    with pytest.raises(PtwError, match="1 workers are no multiple of tensor = 2 times replicas = 1"):
        trained(plan)
    plan = planned(workspace(tmp_path / "sparse", "experts = 2"), "next-on-two")
    with pytest.raises(PtwError, match="1 workers are no multiple of experts = 2 times replicas = 1"):
        trained(plan)


EXPERTS = (
    '"qwen3_moe"\nmoe_intermediate_size = 24\nnum_experts = 8\nnum_experts_per_tok = 2\nhead_dim = 8\n'
    "norm_topk_prob = true"
)


@pytest.mark.slow
def test_workers_that_share_experts_give_the_curve_and_the_model_of_one(tmp_path: Path) -> None:
    """Blocks computed again send their tokens again; each pass has rows of its own, the last one few."""
    sparse = {'"llama"': EXPERTS, "rows = 4": "rows = 5\nrows_at_once = 2"}
    one = trained(planned(workspace(tmp_path / "one", **sparse), "next", steps=12))
    plan = planned(
        workspace(tmp_path / "two", "experts = 2", "recompute = true", **sparse), "next-on-two", steps=12
    )
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    folder = plan.run_folder()
    assert losses_of(folder) == pytest.approx(losses_of(one.folder), rel=1e-6)
    norms = [[line["gradient_norm"] for line in steps_of(f)] for f in (folder, one.folder)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    demand_near(folder, one.folder)


@pytest.mark.slow
def test_in_bf16_tokens_go_to_their_experts_too(tmp_path: Path) -> None:
    sparse = {'"llama"': EXPERTS}
    one = trained(planned(workspace(tmp_path / "one", **sparse), "next", steps=12, precision="bf16"))
    root = workspace(tmp_path / "two", "experts = 2", **sparse)
    plan = planned(root, "next-on-two", steps=12, precision="bf16")
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert losses_of(plan.run_folder()) == pytest.approx(losses_of(one.folder), rel=0.02)


def demand_near(ours: Path, theirs: Path) -> None:
    """The models that two runs published."""
    opened = [open_named(read(folder.parents[1]), folder.name).loaded.module for folder in (ours, theirs)]
    for (name, our), their in zip(opened[0].named_parameters(), opened[1].parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_blocks_computed_again_give_the_same_bits(tmp_path: Path, alone: record.RunRecord) -> None:
    root = workspace(tmp_path / "ws", "recompute = true", **{"workers = 2": "workers = 1"})
    again = trained(planned(root, "next-on-two", steps=12))
    assert curve_of(again.folder) == curve_of(alone.folder)
    norms = [[line["gradient_norm"] for line in steps_of(f.folder)] for f in (again, alone)]
    assert norms[0] == norms[1]
