"""Cases are found by trying the reference: what they hold and stress, and that the audit sees holes."""

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ptw.errors import PtwError
from ptw.verify.cases import Family
from ptw.verify.drawing import draw
from ptw.verify.drawing.audit import Weights, audit
from ptw.verify.drawing.configurations import Configuration, configurations
from ptw.verify.drawing.fields import ABSENT, apply, family_fields
from ptw.verify.drawing.informative import generator
from ptw.verify.drawing.routing import Watch, gaps
from ptw.verify.drawing.search import Change, Search
from ptw.verify.drawing.sizes import small
from ptw.verify.drawing.trials import TIED, Outcome, Trials
from ptw.verify.exact import exact
from ptw.verify.reference import hf

UNPORTED = (
    "mistral",
    "phi3",
    "olmo2",
    "cohere2",
    "granite",
    "gemma2",
    "mixtral",
    "deepseek_v3",
    "glm4",
    "qwen2",
)
UNPORTED += ("olmoe", "starcoder2", "stablelm", "phi", "falcon", "bloom")
PORTED = ("llama", "qwen3_moe", "gemma3_text")
KINDS = {"thorough", "ordinary", "field"}


@pytest.fixture(scope="module", params=[*PORTED[:-1], pytest.param(PORTED[-1], marks=pytest.mark.slow)])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("cases") / request.param
    draw.main(request.param, "practice", 0, folder)
    return Family(request.param, folder)


@pytest.fixture
def exactly() -> Iterator[None]:
    with exact(), torch.no_grad():
        yield


def kinds(family: Family, kind: str) -> list[str]:
    return [name for name in family.names if family.drawn(name)["kind"] == kind]


def test_every_field_and_weight_is_moved_by_a_case_or_shown_inert(family: Family) -> None:
    said = json.loads((family.folder / "audit.json").read_text())
    assert said["holes"] == []
    declared = {field.name for field in dataclasses.fields(hf.config_class(family.model_type))}
    assert declared - {"rope_parameters"} <= set(said["fields"])
    for name, entry in said["fields"].items():
        assert entry["inert"] != bool(entry["moved_by"]), name
        assert entry["moved_by"] is None or entry["moved_by"] in family.names
    assert {"rms_norm_eps", "tie_word_embeddings", "num_key_value_heads", "head_dim"} <= {
        name for name, entry in said["fields"].items() if entry["moved_by"]
    }
    assert all(case in family.names for case in said["parameters"].values())


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("gpt_neox", "embed_out.weight"),
        pytest.param("mixtral", "experts.0.w1", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_stands_there_as_the_hub_has_it(model_type: str, name: str, tmp_path: Path) -> None:
    draw.main(model_type, "practice", 0, tmp_path)
    family = Family(model_type, tmp_path)
    (case,) = [case for case in family.names if family.drawn(case)["name"] == "as published"]
    checkpoint = tmp_path / "given" / case / "checkpoint"
    assert any(name in key for key in load_file(checkpoint / "model.safetensors"))
    with exact(), torch.no_grad():
        ids = load_file(checkpoint.parent / "inputs.safetensors")["ids"]
        plain = next(name for name in family.names if family.drawn(name)["name"] == "field-base")
        same = [
            hf.forward(hf.opened(folder), ids)
            for folder in (checkpoint, tmp_path / "given" / plain / "checkpoint")
        ]
    assert torch.equal(*same)


def test_cases_are_few_where_they_are_dear(family: Family) -> None:
    assert {family.drawn(name)["kind"] for name in family.names} == KINDS
    assert len(kinds(family, "thorough")) <= 6
    assert len(kinds(family, "ordinary")) <= 7
    assert {"plain", "odd sizes", "everything"} <= {family.drawn(name)["name"] for name in family.names}


@pytest.mark.usefixtures("exactly")
def test_each_field_case_moves_the_reference_on_the_same_weights_and_tokens(family: Family) -> None:
    names = kinds(family, "field")
    (base,) = [name for name in names if name.endswith("field-base")]
    given = {name: load_file(family.given / name / "inputs.safetensors") for name in names}
    ids = given[base]["ids"]
    weights = load_file(family.given / base / "checkpoint" / "model.safetensors")
    before = hf.forward(hf.opened(family.given / base / "checkpoint"), ids)
    for name in names:
        assert set(given[name]) == {"ids", "lengths"}
        assert torch.equal(given[name]["ids"], ids)
        if name == base:
            continue
        held = load_file(family.given / name / "checkpoint" / "model.safetensors")
        shared = [key for key in held if key in weights and held[key].shape == weights[key].shape]
        assert all(torch.equal(held[key], weights[key]) for key in shared), name
        logits = hf.forward(hf.opened(family.given / name / "checkpoint"), ids)
        same = logits.shape == before.shape and held.keys() == weights.keys()
        assert not same or (logits - before).norm() > 1e-12 * before.norm(), name


@pytest.mark.usefixtures("exactly")
def test_thorough_cases_hold_inputs_for_every_verifier(family: Family) -> None:
    for name in kinds(family, "thorough"):
        inputs = load_file(family.given / name / "inputs.safetensors")
        lengths = inputs["gradient.lengths"].tolist()
        pairs = zip(
            inputs["gradient.ids"].split(lengths), inputs["gradient.targets"].split(lengths), strict=True
        )
        for ids, targets in pairs:
            assert targets[-1] == -100
            known = targets[:-1] != -100
            assert torch.equal(ids[1:][known], targets[:-1][known])
        assert max(lengths) > 24
        hidden = inputs["forced"]
        assert hidden.dtype == torch.float32
        assert torch.equal(hidden, hidden.bfloat16().float())
        assert int(inputs["precise.lengths"].min()) >= 8
        adapter = load_file(family.given / name / "adapter" / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
        model = hf.opened(family.given / name / "checkpoint")
        for document in inputs["precise.ids"].split(inputs["precise.lengths"].tolist()):
            with Watch() as watch:
                hf.forward(model, document)
            assert watch.used == ("moe" in family.model_type)
            assert watch.closest > 0.05
        for document in inputs["ids"].split(inputs["lengths"].tolist()):
            with Watch() as watch:
                hf.forward(model, document)
            assert watch.closest > TIED


def test_configurations_are_spelled_as_checkpoints_of_now_and_of_before_do(family: Family) -> None:
    found = [json.loads(path.read_text()) for path in sorted(family.given.glob("*/checkpoint/config.json"))]
    scaled = [values["rope_scaling"] for values in found if "rope_scaling" in values]
    assert any("rope_type" in rope for rope in scaled)
    # Gemma 3 does not read the oldest spelling: what it says is lost
    assert any("type" in rope for rope in scaled) != (family.model_type == "gemma3_text")
    assert any("rope_parameters" in values for values in found)
    assert any("head_dim" not in values for values in found)
    # null where the annotation says so
    null = any(values.get("num_key_value_heads", 0) is None for values in found)
    assert null == (family.model_type == "llama")


@pytest.mark.parametrize(("model_type", "outside"), [("llama", True), ("gpt_neox", False)])
def test_the_base_of_a_rope_stands_where_the_family_reads_it(
    model_type: str, outside: bool, tmp_path: Path
) -> None:
    """GPT-NeoX has another name for it outside, and reads `rope_theta` inside alone."""
    rope = {"rope_type": "linear", "factor": 3.0, "rope_theta": 777.0, "partial_rotary_factor": 1.0}
    values = {"hidden_size": 32, "num_attention_heads": 2, "rope_parameters": rope}
    configuration = Configuration("rope", "ordinary", values, spelling="type")
    draw._write_config(tmp_path, hf.config_class(model_type)(**values), configuration, "given")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written.get("rope_theta") == (777.0 if outside else None)
    assert written["rope_scaling"].get("rope_theta") == (None if outside else 777.0)


@pytest.mark.usefixtures("exactly")
def test_a_field_that_only_another_lets_through_is_found() -> None:
    trials = Trials(hf.config_class("qwen3"), 1)
    found = configurations(trials, random.Random(0), fresh=False)
    moving = {name for change in found.search.moving for name in change.fields}
    assert {
        "use_sliding_window",
        "max_window_layers",
        "sliding_window",
        "rope_parameters.short_factor",
    } & moving
    assert "max_window_layers" in moving
    assert "max_position_embeddings" in moving
    assert not moving & {"initializer_range", "use_cache", "attention_dropout", "bos_token_id"}


@pytest.mark.usefixtures("exactly")
def test_layers_of_every_kind_are_in_a_small_model() -> None:
    """By default DeepSeek-V3's first three layers are dense: three layers would have no expert."""
    trials = Trials(hf.config_class("deepseek_v3"), 1)
    values = small(trials).plain
    saved = trials.outcome(values).saved
    assert values["num_hidden_layers"] == 3
    assert any(".experts." in name for name in saved)
    assert any(name.endswith("layers.0.mlp.up_proj.weight") for name in saved)


@pytest.mark.usefixtures("exactly")
def test_what_is_kept_in_fp32_is_saved_so_and_bf16_cannot_hold_it() -> None:
    family = hf.config_class("deepseek_v3")
    trials = Trials(family, 1)
    config = family(**small(trials).plain)
    for seed, middle in ((0, 7.0), (1, 0.0)):
        saved = hf.saved_tensors(hf.drawn(config, seed))
        (bias, *_) = [tensor for name, tensor in saved.items() if name.endswith("e_score_correction_bias")]
        assert bias.dtype == torch.float32
        assert not torch.equal(bias, bias.bfloat16().to(bias))
        assert abs(float(bias.mean()) - middle) < 1
        assert middle or (float(bias.min()) < 0 < float(bias.max()))


@pytest.mark.slow
@pytest.mark.usefixtures("exactly")
def test_the_audit_names_what_no_case_moves() -> None:
    family = hf.config_class("llama")
    trials = Trials(family, 1)
    plain = small(trials).plain
    search = Search(trials, plain, family(**plain).to_dict())
    search.moving = [Change(("rms_norm_eps",), {"rms_norm_eps": 0.1})]
    search.note("mlp_bias", [True])
    said = audit(search, family_fields(family, plain), {"00-plain": ()}, Weights())
    holes = "\n".join(said["holes"])
    assert "rms_norm_eps: it moves the reference's output, but is in no case" in holes
    assert "mlp_bias: the reference runs with none of True" in holes
    assert not said["fields"]["output_hidden_states"]["moved_by"]


@pytest.mark.usefixtures("exactly")
def test_a_weight_that_is_never_used_is_seen() -> None:
    model = hf.drawn(hf.config_class("llama")(**small_llama()), 0)
    model.register_parameter("idle", nn.Parameter(torch.ones(3)))
    weights = Weights()
    weights.look("00-plain", model, model.state_dict(), [torch.arange(9)])
    assert weights.moved_by.pop("idle") is None
    assert set(weights.moved_by.values()) == {"00-plain"}
    assert "model.layers.*.mlp.up_proj.weight" in weights.moved_by


def small_llama() -> dict[str, int]:
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    return sizes | {"num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.mark.usefixtures("exactly")
def test_a_change_that_looks_ahead_is_left_to_a_case_of_its_own() -> None:
    trials = Trials(hf.config_class("gemma3_text"), 1)
    values = small(trials).plain
    assert trials.causal(values)
    assert not trials.causal(values | {"use_bidirectional_attention": True})


@pytest.mark.usefixtures("exactly")
def test_tokens_that_the_reference_cannot_run_are_no_word_about_the_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two experts were as good as one another on the tokens with another end: others are tried."""
    trials, run, asked = Trials(hf.config_class("llama"), 1), Trials._run, list[torch.Tensor]()

    def tied_at_first(self: Trials, values: dict[str, int], ids: torch.Tensor) -> Outcome:
        asked.append(ids)
        return (
            Outcome("two experts are as good as one another") if len(asked) == 2 else run(self, values, ids)
        )

    monkeypatch.setattr(Trials, "_run", tied_at_first)
    values = small_llama()
    assert trials.causal(values)
    assert len({tuple(ids.tolist()) for ids in asked}) == len(asked) == 3
    assert not trials.causal(values | {"num_attention_heads": 3})


@pytest.mark.usefixtures("exactly")
def test_a_family_that_cannot_be_run_is_no_pass() -> None:
    trials = Trials(hf.config_class("llama"), 1)
    with pytest.raises(PtwError, match="the reference can't run the case 'odd'"):
        trials.demand(small_llama() | {"hidden_size": 33}, "odd")


def test_close_decisions_are_measured() -> None:
    scores = torch.tensor([[4.0, 3.0, 2.99, 0.0], [4.0, 3.0, 1.0, -torch.inf], [1.0, 1.0, 1.0, 1.0]])
    assert gaps(scores, 2).tolist() == pytest.approx([0.0025, 2 / 3, 0.0], abs=1e-6)
    with Watch() as watch:
        torch.topk(scores, 2, dim=-1)
        scores.topk(4)
    assert [len(gap) for _, gap in watch.gaps] == [3]
    assert watch.closest == 0.0


def test_changes_reach_below_and_leave_out() -> None:
    before = {"a": 1, "rope": {"full": {"theta": 2.0}}}
    after = apply(before, {"a": ABSENT, "rope.full.factor": 3.0, "other.key": 1}, {"other": {"kept": 5}})
    assert after == {"rope": {"full": {"theta": 2.0, "factor": 3.0}}, "other": {"kept": 5, "key": 1}}
    assert before["a"] == 1


@pytest.mark.slow
def test_acceptance_draws_afresh_and_from_its_seed_alone(tmp_path: Path) -> None:
    said = []
    for seed in (3, 3, 4):
        folder = tmp_path / str(len(said))
        draw.main("llama", "acceptance", seed, folder)
        one = Family("llama", folder)
        files = sorted(one.folder.rglob("*.json")) + sorted(one.folder.rglob("*.safetensors"))
        said.append({file.relative_to(folder): file.read_bytes() for file in files})
        names = {one.drawn(name)["name"] for name in one.names}
        assert {"outliers", "combination 6"} <= names
    assert said[0] == said[1]
    plain = Path("given/01-odd-sizes/checkpoint/config.json")
    assert said[0][plain] != said[2][plain]


def test_the_same_name_draws_the_same_numbers() -> None:
    first, second = (torch.randn(3, generator=generator(1, name)) for name in ("a", "b"))
    assert torch.equal(first, torch.randn(3, generator=generator(1, "a")))
    assert not torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_type",
    UNPORTED,
)
def test_a_family_without_a_port_is_stressed_as_well(model_type: str, tmp_path: Path) -> None:
    draw.main(model_type, "practice", 0, tmp_path)
    said = json.loads((tmp_path / "audit.json").read_text())
    assert said["holes"] == []
    assert len(Family(model_type, tmp_path).names) > 20
