"""An adapter does the same to port and reference; a port that it does not reach is found by this alone."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from ptw.errors import PtwError
from ptw.nn.layout import Layout
from ptw.ports import adapter, adapting
from ptw.ports.load import load
from ptw.ports.port import load_port
from ptw.verify.judge import of_verifier
from ptw.verify.port import trace as trace_port
from ptw.verify.reference import trace as trace_reference
from ptw.verify.subject import Tensors, probes
from ptw.workspace import rooms
from tests.verify import small_case

FILE = rooms.files(None, "verifiers")["adapters"]
QUERY = "rotate(self.q_proj(hidden_BTD).view(heads))"
# the logits without an adapter are right in each of these
WRONG = {
    "past the layer": (
        (QUERY, "rotate((hidden_BTD @ self.q_proj.weight.T).view(heads))"),
        "model.layers.0.self_attn.q_proj.lora_A.weight has no gradient",
    ),
    "another name": (
        ("self.down_proj", "self.out"),
        ('        for projection in ("gate_proj", "up_proj", "down_proj"):', "        operators.append("
         'Rename(f"{block}.mlp.down_proj.weight", f"{block}.mlp.out.weight"))\n'
         '        for projection in ("gate_proj", "up_proj"):'),
        ("import Absent,", "import Absent, Rename,"),
        "model.layers.0.mlp.down_proj is no nn.Linear of the port under that name",
    ),
    "no linear layer": (
        ("class MLP(", "class Wide(nn.Linear):\n    pass\n\n\nclass MLP("),
        ("self.up_proj = nn.Linear", "self.up_proj = Wide"),
        "model.layers.1.mlp.up_proj is no nn.Linear",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    given: Path
    theirs: Tensors


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    given = small_case.make(tmp_path_factory.mktemp("given") / "plain")
    target = given.parent / "answer.safetensors"
    trace_reference.answer({"given": str(given), "write": str(target), "verifiers": [str(FILE)]})
    return Asked(given, load_file(target))


@pytest.fixture
def verifier() -> ModuleType:
    return rooms.load(FILE)


@pytest.fixture
def said(
    asked: Asked, verifier: ModuleType, write_port: Callable[[str, str], Path], tmp_path: Path
) -> Callable[[str], tuple[dict[str, float], list[str]]]:
    """What the verifier measures of a text of llama's port, and says about it."""

    def run(text: str) -> tuple[dict[str, float], list[str]]:
        root = write_port("llama", text)
        port = load_port(root / "models" / "llama.py")
        handed = tmp_path / "handed"
        ours = trace_port.trace(port, root, probes({"adapters": FILE}), asked.given, handed)
        theirs = dict(asked.theirs)
        if (handed / "adapter").is_dir():
            theirs |= reopened(asked.given, handed, tmp_path / "reopened.safetensors")
        both = of_verifier(ours, "adapters"), of_verifier(theirs, "adapters")
        return verifier.measure(*both), verifier.explain(*both)

    return run


def reopened(given: Path, handed: Path, target: Path) -> Tensors:
    request = {"given": str(given), "write": str(target), "verifiers": [str(FILE)], "handed": str(handed)}
    trace_reference.answer(request)
    error = target.with_suffix(".error")
    if error.exists():
        raise RuntimeError(error.read_text())
    return load_file(target)


def test_a_right_port_passes(said: Callable, text_of: Callable[[str], str], verifier: ModuleType) -> None:
    values, words = said(text_of("llama"))
    assert values.keys() == verifier.LIMITS.keys()
    assert values["layers"] == values["saved"] == values["reopened"] == 0
    assert values["relative"] < 1e-13
    assert values["gradients"] < 1e-12
    assert words == []


@pytest.mark.parametrize("name", WRONG)
def test_a_port_that_an_adapter_does_not_reach_fails(
    name: str, said: Callable, text_of: Callable[[str], str], verifier: ModuleType
) -> None:
    *edits, words = WRONG[name]
    text = text_of("llama")
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    values, found = said(text)
    assert any(not values[metric] <= limit for metric, limit in verifier.LIMITS.items()), values
    assert any(words in line for line in found), found


def test_the_adapter_moves_the_reference(asked: Asked, verifier: ModuleType) -> None:
    without = asked.given.parent / "without.safetensors"
    sharding = str(rooms.files(None, "verifiers")["sharding"])  # of the same documents, without an adapter
    trace_reference.answer({"given": str(asked.given), "write": str(without), "verifiers": [sharding]})
    plain, adapted = load_file(without)["sharding/logits"], asked.theirs["adapters/logits"]
    assert ((plain - adapted).norm() / plain.norm()) > 1e-3


def test_a_changed_copy_is_found(
    asked: Asked, verifier: ModuleType, tmp_path: Path, text_of: Callable[[str], str]
) -> None:
    loaded = load(asked.given / "checkpoint", None)
    read = adapter.read(asked.given / "adapter")
    adapter.attach(loaded, read)
    adapter.save(loaded.module, read.settings, tmp_path / "adapter")
    file = tmp_path / "adapter" / adapter.TENSORS
    tensors = load_file(file)
    tensors[next(iter(tensors))][0, 0] += 1e-3
    save_file(tensors, file)
    theirs = of_verifier(
        asked.theirs | reopened(asked.given, tmp_path, tmp_path / "a.safetensors"), "adapters"
    )
    values = verifier.measure({}, theirs)
    assert values["saved"] == 1
    assert values["reopened"] > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("megatron_config", {"a": 1}),
        ("use_dora", True),
        ("lora_alpha", 9),
        ("auto_mapping", {"parent_library": "x"}),
    ],
)
def test_what_a_port_writes_cannot_steer_peft(key: str, value: object, asked: Asked, tmp_path: Path) -> None:
    loaded = load(asked.given / "checkpoint", None)
    read = adapter.read(asked.given / "adapter")
    adapter.attach(loaded, read)
    adapter.save(loaded.module, read.settings, tmp_path / "adapter")
    file = tmp_path / "adapter" / adapter.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(RuntimeError, match=f"{key}|another configuration"):
        reopened(asked.given, tmp_path, tmp_path / "a.safetensors")


FAMILIES = {"llama": {}, "qwen3": {"head_dim": 8}, "gpt_neox": {}}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_peft_itself_works_on_a_port(model_type: str, tmp_path: Path) -> None:
    """The same targets by the same names on the port's own modules; ptw's way gives the same, merged too."""
    given = small_case.make(tmp_path / "given", model_type, **FAMILIES[model_type])
    inputs = small_case.inputs_of(given)
    read = adapter.read(given / "adapter")
    config = peft.LoraConfig(
        r=read.settings.r, lora_alpha=8, target_modules=list(read.settings.target_modules)
    )
    ids_BT, layout = inputs["ids"][None], Layout.of_documents([list(small_case.LENGTHS)])
    ours = load(given / "checkpoint", None, dtype=torch.float64)
    adapter.attach(ours, read)
    wrapped = peft.get_peft_model(load(given / "checkpoint", None, dtype=torch.float64).module, config)
    wrapped.double()
    state = load_file(given / "adapter" / adapter.TENSORS)
    left = peft.set_peft_model_state_dict(wrapped, state)
    assert not left.unexpected_keys
    with torch.no_grad():
        expected = ours.module.eval()(ids_BT, layout)
        torch.testing.assert_close(wrapped.eval()(ids_BT, layout), expected, rtol=1e-12, atol=1e-12)
        alone = load(given / "checkpoint", None, dtype=torch.float64).module.eval()
        merged, lost = adapting.merged(ours.module, ours.module.state_dict(), None)
        alone.load_state_dict(merged)
        torch.testing.assert_close(alone(ids_BT, layout), expected, rtol=1e-10, atol=1e-10)
        assert lost < 1e-14


REFUSED = {
    "use_dora": (True, "use_dora"),
    "bias": ("all", "bias"),
    "modules_to_save": (["lm_head"], "modules_to_save"),
    "init_lora_weights": ("pissa", "base model"),
    "r": (0, "r = 0"),
    "target_modules": ("all-linear", "target_modules"),
    "peft_type": ("LOHA", "LORA"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(key: str, asked: Asked, tmp_path: Path) -> None:
    value, words = REFUSED[key]
    values = json.loads((asked.given / "adapter" / adapter.CONFIG).read_text()) | {key: value}
    (tmp_path / adapter.CONFIG).write_text(json.dumps(values))
    with pytest.raises(PtwError, match=words):
        adapter.read(tmp_path)


def test_a_layer_that_does_not_fit_is_named(asked: Asked) -> None:
    read = adapter.read(asked.given / "adapter")
    name, (down, up) = next(iter(read.pairs.items()))
    for pairs, words in (
        ({name: (down[:, 1:], up)}, name),
        ({"model.embed_tokens": (down, up)}, "PadVocabulary"),
        ({"model.layers.9.self_attn.q_proj": (down, up)}, "no tensor of the checkpoint"),
        ({"model.norm": (down, up)}, "RMSNorm"),
    ):
        loaded = load(asked.given / "checkpoint", None)
        with pytest.raises(PtwError, match=words):
            adapter.attach(loaded, adapter.Adapter(read.settings, pairs))
        assert not adapter.parameters(loaded.module)
