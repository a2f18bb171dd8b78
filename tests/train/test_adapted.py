"""An adapter learns on a frozen base: PEFT's in every number, small on disk, merged in what is exported."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, LlamaConfig, LlamaForCausalLM

from ptw.errors import PtwError
from ptw.evals.answer import answer
from ptw.evals.evaluate import evaluate
from ptw.nn.layout import Layout
from ptw.ports import adapter, adapting
from ptw.ports.load import load
from ptw.runs import lines, record
from ptw.runs.export import export_run
from ptw.runs.open import open_named
from ptw.train.adapted import AdapterSettings, begin
from ptw.train.group import Group
from ptw.train.run import Run
from ptw.train.settings import TrainingSettings
from ptw.workspace.check import problems
from ptw.workspace.manifest import read
from tests.train.conftest import curve_of, make_workspace, planned, steps_of, together, trained

# peft still asks transformers by old names
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LORA = {"adapter": "lora", "lora_rank": 4, "lora_alpha": 8}
ALONE = Group(0, 1, torch.device("cpu"))
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
IDS = torch.randint(0, 300, (1, 20), generator=torch.Generator().manual_seed(5))


def with_base(root: Path, port: str | None = None, recipe: str = "sft", **sizes: int) -> Path:
    """The tiny workspace, with a checkpoint of Hugging Face's own class in place of the shape."""
    make_workspace(root, recipe=recipe)
    torch.manual_seed(3)
    shape = LlamaConfig(**{**SIZES, "tie_word_embeddings": True, **sizes})
    LlamaForCausalLM(shape).save_pretrained(root / "base")
    text = (root / "workspace.toml").read_text()
    before, _, rest = text.partition("[models.tiny.config]")
    entry = f'[models.tiny]\nhf = "base"\n{f"port = {port!r}" if port else ""}\n'
    (root / "workspace.toml").write_text(before + entry + rest[rest.index("[tokenizers.items]") :])
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_base(tmp_path_factory.mktemp("lora") / "ws")


@pytest.fixture(scope="module")
def learnt(base: Path) -> record.RunRecord:
    return trained(planned(base, "chat", **LORA, checkpoint_every=2, lora_dropout=0.1, lora_rslora="true"))


def on_reference(base: Path, folder: Path) -> torch.Tensor:
    """The logits of Hugging Face's class with PEFT's adapter on it, in exact arithmetic."""
    model: Any = AutoModelForCausalLM.from_pretrained(base / "base", experts_implementation="eager").double()
    with torch.no_grad():
        return peft.PeftModel.from_pretrained(model, folder).double().eval()(IDS).logits


def logits_of(module: Any) -> torch.Tensor:
    with torch.no_grad():
        return module.head().logits(module.eval()(IDS, Layout.of_documents([[IDS.shape[1]]])))


def is_near(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours.double() - theirs).norm() / theirs.norm()).item()


def test_a_new_adapter_is_the_one_that_peft_makes(base: Path) -> None:
    """The same layers, the same spread of A, zeros in B: the model says what its base says, to the bit."""
    loaded = load(base / "base", None)
    before = logits_of(loaded.module)
    settings = AdapterSettings(adapter="lora", lora_rank=4)
    begin(loaded, settings, 0, ALONE.device)
    reference = LlamaForCausalLM.from_pretrained(base / "base")
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = {
        name.replace(".default.", "."): own
        for name, own in peft.get_peft_model(reference, config).named_parameters()
        if own.requires_grad
    }
    ours = adapter.parameters(loaded.module)
    assert {name: own.shape for name, own in ours.items()} == {n: own.shape for n, own in theirs.items()}
    assert all(not own.any() for name, own in ours.items() if name.endswith(adapter.UP))
    for name in (name for name in ours if name.endswith(adapter.DOWN)):
        bound = 1 / math.sqrt(ours[name].shape[1])
        assert 0.9 * bound < ours[name].abs().max() <= bound >= theirs[name].abs().max() > 0.9 * bound
    assert torch.equal(logits_of(loaded.module), before)
    trained = {name for name, own in loaded.module.named_parameters() if own.requires_grad}
    assert trained == {f"{name.removeprefix(adapter.PREFIX)}" for name in ours}


def test_only_the_adapter_learns_and_the_first_loss_is_the_base_s(
    base: Path, learnt: record.RunRecord
) -> None:
    plain = trained(planned(base, "chat", steps=1))
    assert steps_of(learnt.folder)[0]["loss"] == pytest.approx(steps_of(plain.folder)[0]["loss"], rel=1e-6)
    assert steps_of(learnt.folder)[-1]["loss"] < steps_of(learnt.folder)[0]["loss"] - 0.1
    before, after = (load_file(f / "model.safetensors") for f in (base / "base", learnt.folder / "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}


def test_peft_loads_the_adapter_and_transformers_the_merged_model(
    base: Path, learnt: record.RunRecord
) -> None:
    """In exact arithmetic port, PEFT's own and the merged weights say the same; the file holds fp32."""
    theirs = on_reference(base, learnt.folder / "adapter")
    loaded = load(base / "base", None, dtype=torch.float64)
    plain = logits_of(loaded.module)
    assert is_near(plain, theirs) > 1e-3
    adapter.attach(loaded, adapter.read(learnt.folder / "adapter"))
    assert is_near(logits_of(loaded.module), theirs) < 1e-10
    alone = load(base / "base", None, dtype=torch.float64).module
    alone.load_state_dict(adapting.merged(loaded.module, loaded.module.state_dict(), None)[0])
    assert is_near(logits_of(alone), theirs) < 1e-10
    exported = AutoModelForCausalLM.from_pretrained(learnt.folder / "model").double().eval()
    with torch.no_grad():
        assert is_near(exported(IDS).logits, theirs) < 1e-6


def test_the_run_is_exported_evaluated_and_opened(
    base: Path, learnt: record.RunRecord, tmp_path: Path
) -> None:
    workspace = read(base)
    config = peft.PeftConfig.from_pretrained(export_run(workspace, learnt.name, tmp_path / "small", True))
    assert (config.r, config.use_rslora, config.base_model_name_or_path) == (4, True, "base")
    assert {path.name for path in (tmp_path / "small").iterdir()} == {adapter.CONFIG, adapter.TENSORS}
    assert "config.json" in {
        path.name for path in export_run(workspace, learnt.name, tmp_path / "m").iterdir()
    }
    trained_to = lines.read(learnt.folder / record.METRICS)[0][-1]["held_out_loss"]
    assert evaluate(workspace, open_named(workspace, learnt.name))["loss"] == pytest.approx(
        trained_to, rel=1e-6
    )
    assert isinstance(answer(open_named(workspace, learnt.name), "What is 1 and one?", 8, 0.0), str)
    plain = trained(planned(base, "chat", steps=1))
    with pytest.raises(PtwError, match=f"{plain.name} has no adapter"):
        export_run(workspace, plain.name, tmp_path / "none", True)


def test_a_checkpoint_holds_what_learns_and_a_stopped_run_goes_on_bit_for_bit(
    base: Path, learnt: record.RunRecord
) -> None:
    plan = planned(base, "chat", **LORA, checkpoint_every=2, lora_dropout=0.1, lora_rslora="true")
    folder = plan.run_folder()
    assert trained(plan, lambda: len(steps_of(folder)) >= 2).state == "stopped"
    record.change(folder, state="running")
    assert trained(plan).state == "done"
    assert curve_of(folder) == curve_of(learnt.folder)
    ours, theirs = (load_file(f / "adapter" / adapter.TENSORS) for f in (folder, learnt.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    kept = FileSystemReader(sorted((folder / "checkpoints").iterdir())[-1]).read_metadata()
    names = {name.removeprefix(adapter.PREFIX) for name in ours}
    moments = {
        f"optimizer.state.{name}.{kind}" for name in names for kind in ("exp_avg", "exp_avg_sq", "step")
    }
    tensors = {name for name in kept.state_dict_metadata if not name.startswith("optimizer.param_groups")}
    assert tensors == {f"model.{name}" for name in names} | moments


@pytest.mark.slow
def test_two_workers_train_the_adapter_that_one_trains(base: Path) -> None:
    """rows = 3 leaves the second worker without a row in each step's second half."""
    root = base
    settings = LORA | {"rows": 3, "rows_at_once": 1, "label_smoothing": 0.1, "z_loss": 1e-3}
    one = trained(planned(root, "chat", **settings))
    plan = planned(root, "chat", **settings)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    curves = [[line["loss"] for line in steps_of(folder)] for folder in (plan.run_folder(), one.folder)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-6)
    theirs = on_reference(root, one.folder / "adapter")
    assert is_near(on_reference(root, plan.run_folder() / "adapter"), theirs) < 1e-4
    exported = AutoModelForCausalLM.from_pretrained(plan.run_folder() / "model").double().eval()
    with torch.no_grad():
        assert is_near(exported(IDS).logits, on_reference(root, plan.run_folder() / "adapter")) < 1e-6


def test_a_model_without_a_port_trains_the_same_adapter(base: Path, tmp_path: Path) -> None:
    root = with_base(tmp_path / "ws", port="hf")
    ours, theirs = (trained(planned(folder, "chat", **LORA)) for folder in (base, root))
    curves = [[line["loss"] for line in steps_of(found.folder)] for found in (ours, theirs)]
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
    said = on_reference(root, theirs.folder / "adapter")
    assert is_near(on_reference(base, ours.folder / "adapter"), said) < 1e-4
    exported = AutoModelForCausalLM.from_pretrained(theirs.folder / "model").double().eval()
    with torch.no_grad():
        assert is_near(exported(IDS).logits, said) < 1e-6


def test_the_best_adapter_is_kept_with_the_best_model(tmp_path: Path) -> None:
    root = with_base(tmp_path / "ws", recipe="pretrain")
    found = trained(planned(root, **LORA, steps=6, keep_best="true", eval_every=2))
    assert not list(found.folder.glob("best-*"))
    exported = AutoModelForCausalLM.from_pretrained(found.folder / "model").double().eval()
    with torch.no_grad():
        assert is_near(exported(IDS).logits, on_reference(root, found.folder / "adapter")) < 1e-6


def test_in_bf16_the_base_is_bf16_and_the_adapter_fp32(base: Path) -> None:
    settings = TrainingSettings(precision="bf16", window=32, **LORA)
    run = Run(planned(base, "chat"), settings, ALONE, lambda: False)
    run.model()
    dtypes = {own.dtype: own.requires_grad for own in run.loaded.module.parameters()}
    assert dtypes == {torch.bfloat16: False, torch.float32: True}
    found = trained(planned(base, "chat", **LORA, precision="bf16"))
    assert open_named(read(base), found.name).loaded.module.lm_head.weight.dtype == torch.float32
    assert steps_of(found.folder)[-1]["loss"] < steps_of(found.folder)[0]["loss"] - 0.1


def test_what_a_narrow_dtype_rounds_away_is_measured(base: Path) -> None:
    """One part in 2^9 of the weight stays of it, which is much of a small change."""
    loaded = load(base / "base", None)
    begin(loaded, AdapterSettings(adapter="lora"), 0, ALONE.device)
    with torch.no_grad():
        for layer in adapter.attached(loaded.module).values():
            layer.lora_B.weight.normal_(0, 1e-4)
    state = loaded.module.state_dict()
    _, exactly = adapting.merged(loaded.module, state, None)
    _, narrowly = adapting.merged(loaded.module, state, torch.bfloat16)
    assert exactly < 1e-2 < 0.1 < narrowly


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lora_rank": 8}, "lora_rank has no effect without an adapter"),
        ({"adapter": "lora", "lora_rank": 0}, "lora_rank = 0"),
        ({"adapter": "lora", "lora_dropout": 1}, "lora_dropout = 1"),
        ({"adapter": "lora", "lora_targets": "q_proj,lm_head"}, "'lm_head' names no linear layer"),
        ({"label_smoothing": 1}, "label_smoothing = 1"),
        ({"z_loss": -1}, "z_loss = -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(base: Path, change: dict[str, object], words: str) -> None:
    with pytest.raises(PtwError, match=words):
        trained(planned(base, "chat", **change))


def test_a_shape_is_no_base(root: Path) -> None:
    with pytest.raises(PtwError, match="the model is a shape"):
        trained(planned(root, "chat", adapter="lora"))


def test_check_knows_the_settings_that_a_recipe_takes_over(base: Path, tmp_path: Path) -> None:
    root = with_base(tmp_path / "ws")
    text = (root / "workspace.toml").read_text()
    wrong = 'adapter = "lor", lora_rnk = 3, lora_targets = ["q_proj", 3], steps = 6, window'
    (root / "workspace.toml").write_text(text.replace("steps = 6, window", wrong))
    said = {problem.key.rpartition(".")[2]: problem.hint for problem in problems(root)}
    assert "'lora'" in said["adapter"]
    assert "lora_rank" in said["lora_rnk"]
    assert "a list of one or more strings" in said["lora_targets"]


def test_targets_are_peft_s(base: Path) -> None:
    settings = AdapterSettings(adapter="lora", lora_targets=["q_proj", "1.mlp.down_proj"])
    loaded = load(base / "base", None)
    begin(loaded, settings, 0, ALONE.device)
    config = peft.LoraConfig(target_modules=["q_proj", "1.mlp.down_proj"])
    reference = peft.get_peft_model(LlamaForCausalLM.from_pretrained(base / "base"), config)
    names = {
        name.replace(".default.", ".") for name, own in reference.named_parameters() if own.requires_grad
    }
    assert set(adapter.parameters(loaded.module)) == names


def test_experts_are_left_out(tmp_path: Path) -> None:
    """Their matrices are stacked: no linear layers. PEFT loads what is adapted beside them."""
    config = GptOssConfig(**SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
    GptOssForCausalLM(config).save_pretrained(tmp_path / "base")
    loaded = load(tmp_path / "base", None)
    begin(loaded, AdapterSettings(adapter="lora"), 0, ALONE.device)
    layers = adapter.attached(loaded.module)
    assert {place.rpartition(".")[2] for place in layers} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    with torch.no_grad():
        for layer in layers.values():
            layer.lora_B.weight.normal_(0, 0.1)
    adapter.save(loaded.module, next(iter(layers.values())).settings, tmp_path / "adapter")
    exactly = load(tmp_path / "base", None, dtype=torch.float64)
    adapter.attach(exactly, adapter.read(tmp_path / "adapter"))
    assert is_near(logits_of(exactly.module), on_reference(tmp_path, tmp_path / "adapter")) < 1e-10


LOSS = {"label_smoothing": 0.1, "z_loss": 1e-2, "steps": 3}


def test_passes_do_not_change_a_smoothed_loss(base: Path) -> None:
    assert_equal_curves(lambda n: planned(base, "chat", **LOSS, rows_at_once=n), (1, 2))


def test_packing_does_not_change_a_smoothed_loss(tmp_path: Path) -> None:
    """A step that has all documents has one mean, however they lie in rows."""
    root = with_base(tmp_path / "ws", recipe="pretrain")
    once = {"label_smoothing": 0.1, "z_loss": 1e-2, "steps": "none", "rows": 100}
    assert_equal_curves(lambda n: planned(root, **once, window=n), (24, 100))


def assert_equal_curves(plan: Callable[[int], Any], values: tuple[int, int]) -> None:
    one, other = (steps_of(trained(dataclasses.replace(plan(n))).folder) for n in values)
    for key in ("loss", "gradient_norm"):
        assert [s[key] for s in one] == pytest.approx([s[key] for s in other], rel=1e-5), key
    assert one[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-6)
