"""Hugging Face checkpoints come in and go out exactly, and a faulty one is an error that names its fault."""

import errno
import json
import re
import resource
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ptw.errors import PtwError
from ptw.nn.decode import generate
from ptw.nn.layout import Layout
from ptw.ports import export as export_module
from ptw.ports.export import export
from ptw.ports.load import create, load

DOCUMENTS = [9, 1, 17, 4]


def ids() -> torch.Tensor:
    return torch.randint(0, 101, (1, sum(DOCUMENTS)), generator=torch.Generator().manual_seed(3))


def logits(module: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module.head().logits(module(ids(), Layout.of_documents([DOCUMENTS])))


@pytest.fixture
def copy(checkpoint, tmp_path):
    """A checkpoint that a test may spoil."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


def test_a_round_trip_changes_no_bit(checkpoint, tmp_path):
    export(load(checkpoint, None), tmp_path / "out")
    before, after = (
        load_file(checkpoint / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert all(
        torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before
    )


def test_plain_transformers_loads_the_export_and_gives_the_same_logits(checkpoint, tmp_path):
    export(load(checkpoint, None), tmp_path / "out", shard_bytes=20_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    exported, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    original = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert torch.equal(exported(ids()).logits, original(ids()).logits)
    assert torch.equal(logits(load(tmp_path / "out", None).module), logits(load(checkpoint, None).module))


def test_without_a_port_the_reference_runs_behind_the_same_interface(checkpoint, tmp_path):
    port, reference = load(checkpoint, None), load(checkpoint, None, port="hf")
    torch.testing.assert_close(logits(port.module), logits(reference.module), rtol=1e-4, atol=1e-4)
    assert port.notes == ()
    assert "packed attention" in " ".join(reference.notes)
    prompts = [ids()[0, :7].tolist(), ids()[0, 7:9].tolist()]
    assert generate(port.module, prompts, 9) == generate(reference.module, prompts, 9)
    export(reference, tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out", None).module), logits(port.module))


def test_greedy_tokens_are_those_of_the_reference(checkpoint):
    reference = AutoModelForCausalLM.from_pretrained(checkpoint)
    prompts = [ids()[0, :7].tolist(), ids()[0, 7:9].tolist(), [5]]
    for prompt, ours in zip(prompts, generate(load(checkpoint, None).module, prompts, 12), strict=True):
        theirs = reference.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert ours == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("port", [None, "hf"])
def test_each_prompt_goes_on_for_as_long_as_it_has_room(checkpoint, port):
    module = load(checkpoint, None, port=port).module
    prompts, room = [ids()[0, :7].tolist(), ids()[0, 7:9].tolist(), [5], [6, 7]], [2, 9, 0, 4]
    alone = [generate(module, [prompt], most)[0] for prompt, most in zip(prompts, room, strict=True)]
    assert generate(module, prompts, 9, room=room) == alone
    going = iter([True] * 5 + [False])  # other workers still draw when all of these have ended
    assert generate(module, prompts[2:], 9, room=room[2:], agreed=lambda _: next(going)) == alone[2:]


def test_generation_stops_and_keeps_to_allowed_ids(checkpoint):
    module = load(checkpoint, None).module
    (free,) = generate(module, [[1, 2, 3]], 6)
    assert generate(module, [[1, 2, 3]], 6, stop_ids={free[1]})[0] == free[: free.index(free[1]) + 1]
    drawn = generate(module, [[1, 2, 3]] * 2, 20, temperature=3.0, seed=5, allowed_ids={4, 8})
    assert {token for sequence in drawn for token in sequence} == {4, 8}
    assert drawn == generate(module, [[1, 2, 3]] * 2, 20, temperature=3.0, seed=5, allowed_ids={4, 8})


def edit(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


FAULTS = {
    "missing": (lambda t, norm: t.pop(norm), "1 missing from the checkpoint: NORM"),
    "left over": (lambda t, norm: t.update(extra=torch.ones(1)), "1 left over in the checkpoint: extra"),
    "shape": (
        lambda t, norm: t.update({norm: torch.ones(3)}),
        r"NORM gives NORM the shape \(3,\), but config.json asks for \(48,\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_that_does_not_fit_is_named(copy, fault):
    change, message = FAULTS[fault]
    (norm,) = (
        key for key in load_file(copy / "model.safetensors") if re.fullmatch(r"\w+\.\w*norm.weight", key)
    )
    edit(copy, lambda tensors: change(tensors, norm))
    with pytest.raises(PtwError, match=message.replace("NORM", norm)):
        load(copy, None)


def test_a_head_that_is_not_tied_after_all_is_an_error(copy):
    config = json.loads((copy / "config.json").read_text())
    if not config["tie_word_embeddings"]:
        pytest.skip("this checkpoint has a head of its own")
    tensors = load_file(copy / "model.safetensors")
    table = next(tensor for name, tensor in tensors.items() if ".embed_" in name)
    edit(copy, lambda tensors: tensors.update({"lm_head.weight": table.clone()}))
    load(copy, None)
    edit(copy, lambda tensors: tensors.update({"lm_head.weight": table + 1}))
    with pytest.raises(PtwError, match="tie_word_embeddings"):
        load(copy, None)


def test_a_truncated_file_is_named(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(PtwError, match=r"model\.safetensors: damaged or cut short"):
        load(copy, None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no `model_type`"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \*\.safetensors"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "not an index"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "b.safetensors"}}'
            ),
            "b.safetensors: missing",
        ),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_what_is_wrong(copy, spoil, message):
    spoil(copy)
    with pytest.raises(PtwError, match=message):
        load(copy, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_act", "swirl"), ("is_decoder", True), ("quantization_config", {})],
)
def test_a_configuration_that_the_port_does_not_implement_is_refused_by_name(copy, key, value):
    config = json.loads((copy / "config.json").read_text())
    if key == "is_decoder" and config["model_type"] == "gpt_neox":
        pytest.skip("its own example sets it, and nothing reads it")
    (copy / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(PtwError, match=key):
        load(copy, None)


def test_an_export_never_overwrites_and_never_stays_half_written(checkpoint, tmp_path, monkeypatch):
    loaded = load(checkpoint, None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(PtwError, match="there is something already"):
        export(loaded, tmp_path / "out")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_module, "save_file", full)
    with pytest.raises(PtwError, match="No space left"):
        export(loaded, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


FROM_SCRATCH = {
    "llama": 1.0,
    "gpt_neox": 1.0,
    "gemma3_text": 0.0,
    "minicpm3": 1.0,
}  # the weight of a norm that changes nothing


@pytest.mark.parametrize("model_type", FROM_SCRATCH)
def test_a_model_from_scratch_depends_on_its_seed_only(model_type):
    config = {"model_type": model_type, "vocab_size": 101, "hidden_size": 32, "intermediate_size": 48}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": False}
    first, second, other = (create(config, None, seed=seed).module for seed in (1, 1, 2))
    assert torch.equal(logits(first), logits(second))
    assert not torch.equal(logits(first), logits(other))
    for name, parameter in first.named_parameters():
        if parameter.ndim == 1:
            expected = 0.0 if name.endswith("bias") else FROM_SCRATCH[model_type]
            assert parameter.tolist() == [expected] * len(parameter), name
        else:
            assert abs(parameter[:101].std().item() - 0.02) < 0.003, name
        if len(parameter) == 128:
            assert parameter[101:].abs().max() == 0, name


def test_a_tensor_under_its_other_name_is_read_and_keeps_that_name(tmp_path):
    config = {"model_type": "gpt_neox", "vocab_size": 101, "hidden_size": 32, "intermediate_size": 48}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 4}
    created = create(config, None, seed=1)
    export(created, tmp_path / "now")
    shutil.copytree(tmp_path / "now", tmp_path / "before")
    edit(
        tmp_path / "before",
        lambda tensors: tensors.update({"embed_out.weight": tensors.pop("lm_head.weight")}),
    )
    for name, key in (("now", "lm_head.weight"), ("before", "embed_out.weight")):
        loaded = load(tmp_path / name, None)
        assert torch.equal(logits(loaded.module), logits(created.module))
        export(loaded, tmp_path / f"{name}-out")
        assert key in load_file(tmp_path / f"{name}-out" / "model.safetensors")
        reference, report = AutoModelForCausalLM.from_pretrained(
            tmp_path / f"{name}-out", output_loading_info=True
        )
        assert not report["missing_keys"]
        assert torch.equal(reference.lm_head.weight, created.module.lm_head.weight[:101])
    edit(tmp_path / "now", lambda tensors: tensors.update({"embed_out.weight": torch.ones(101, 32)}))
    with pytest.raises(PtwError, match="1 left over in the checkpoint: embed_out"):
        load(tmp_path / "now", None)


@pytest.mark.parametrize("rows", [100, 102, 128])
def test_a_table_of_another_size_than_the_vocabulary_is_an_error(copy, rows):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    with pytest.raises(PtwError, match=f"vocab_size = {rows}, but .* has 101 rows"):
        load(copy, None)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_hidden_layers", "2", "num_hidden_layers|does not describe"),
        ("hidden_size", 48.0, "hidden_size|does not describe"),
        ("rms_norm_eps", "1e-6", "rms_norm_eps = '1e-6': it must be a number"),
        ("num_key_value_heads", 3, "no multiple of num_key_value_heads = 3"),
        ("head_dim", 7, "must be even"),
        ("rope_scaling", {"rope_type": "linear"}, "need factor"),
    ],
)
def test_a_value_that_describes_no_model_is_named(copy, key, value, message):
    config = json.loads((copy / "config.json").read_text())
    latent = "kv_lora_rank" in config and key in ("num_key_value_heads", "head_dim")
    if latent or key not in {*config, "rope_scaling"}:
        pytest.skip("this family has no such key, or does not read it")
    config.pop("rope_parameters")
    (copy / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(PtwError, match=message):
        load(copy, None)


@pytest.mark.parametrize("kinds", [["full_attention"], ["full_attention", "chunked_attention"]])
def test_a_kind_of_layer_that_the_family_has_not_is_refused(copy, kinds):
    config = json.loads((copy / "config.json").read_text())
    if config["model_type"] not in ("qwen3", "gemma3_text"):
        pytest.skip("its layers are of one kind")
    (copy / "config.json").write_text(json.dumps({**config, "layer_types": kinds}))
    with pytest.raises(PtwError, match="layer_types"):
        load(copy, None)


def test_what_the_hub_adds_to_a_llama_and_nothing_reads_is_no_fault(copy):
    config = json.loads((copy / "config.json").read_text())
    extra = {"rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}, "is_llama_config": True}
    (copy / "config.json").write_text(json.dumps({**config, **extra}))
    load(copy, None)
    (copy / "config.json").write_text(json.dumps({**config, "rope_interleaved": True}))
    with pytest.raises(PtwError, match="rope_interleaved"):
        load(copy, None)


def test_a_disk_that_fills_while_exporting_leaves_nothing(checkpoint, tmp_path):
    loaded = load(checkpoint, None)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(PtwError, match="could not be written"):
            export(loaded, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "gemma3_text": [
        {"use_bidirectional_attention": True},
        {"sliding_window": None},
        {"hidden_activation": "prelu"},
    ],
    "gpt_neox": [{"num_attention_heads": 5}, {"hidden_act": "xielu"}, {"rotary_pct": 1.5}],
    "minicpm3": [{"num_key_value_heads": 2}, {"qk_rope_head_dim": 7}, {"quantization_config": {}}],
}


@pytest.mark.parametrize(
    ("model_type", "change"),
    [(model_type, change) for model_type in REFUSED for change in REFUSED[model_type]],
)
def test_what_a_family_cannot_do_is_refused_by_name(model_type, change):
    config = {"model_type": model_type, "vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "intermediate_size": 48}
    create(config, None, seed=1)
    named = {"rotary_pct": "partial_rotary_factor", "qk_rope_head_dim": "head_dim"}
    (key,) = change
    with pytest.raises(PtwError, match=named.get(key, key)):
        create(config | change, None, seed=1)
