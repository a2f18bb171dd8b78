"""A port that does more than it must is slower than the reference; one that does less is not its equal."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig

from ptw.errors import PtwError
from ptw.verify import judge
from ptw.verify.drawing import enlarge
from ptw.verify.port import speed as port_speed
from ptw.verify.reference import speed as reference_speed
from ptw.verify.subject import Tensors
from ptw.workspace import rooms
from tests.verify import small_case

FILE = rooms.files(None, "verifiers")["speed"]
TWICE = (
    "        return hidden_BTD + self.mlp(self.post_attention_layernorm(hidden_BTD))",
    "        for _ in range(24):\n"
    "            hidden_BTD = hidden_BTD + self.mlp(self.post_attention_layernorm(hidden_BTD)) * 0\n"
    "        return hidden_BTD + self.mlp(self.post_attention_layernorm(hidden_BTD))",
)
IDLE = (
    "        return self.down_proj(self.activation(self.gate_proj(hidden_BTD)) * self.up_proj(hidden_BTD))",
    "        return hidden_BTD",
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    plain = small_case.make(folder / "plain") / "checkpoint"
    enlarge.main({"plain": str(plain), "folder": str(folder / "case"), "error": str(folder / "error")})
    assert not (folder / "error").exists()
    return folder / "case"


@pytest.fixture(scope="module")
def theirs(wide: Path) -> Tensors:
    return reference_speed.timed(wide / "checkpoint", load_file(wide / "inputs.safetensors"), "cpu")


@pytest.fixture
def verifier() -> ModuleType:
    return rooms.load(FILE)


@pytest.fixture
def measured(
    wide: Path, theirs: Tensors, verifier: ModuleType, write_port: Callable[[str, str], Path]
) -> Callable[[str], dict[str, float]]:
    def run(text: str) -> dict[str, float]:
        root = write_port("llama", text)
        inputs = load_file(wide / "inputs.safetensors")
        return verifier.measure(port_speed.timed(root, wide / "checkpoint", inputs, "cpu"), theirs)

    return run


def test_a_right_port_is_as_fast_and_computes_the_same(
    measured: Callable, text_of: Callable[[str], str], verifier: ModuleType, theirs: Tensors
) -> None:
    values = measured(text_of("llama"))
    assert values.keys() == {metric for metric in verifier.LIMITS if verifier.applies(metric, theirs)}
    assert values.keys() == {"step_cpu", "decode_cpu", "memory_cpu", "loss", "logits"}
    assert all(value <= verifier.LIMITS[metric] for metric, value in values.items()), values
    assert max(values["loss"], values["logits"]) < 1e-4


def test_a_port_that_computes_in_vain_is_too_slow(
    measured: Callable, text_of: Callable[[str], str], verifier: ModuleType
) -> None:
    text = text_of("llama")
    assert TWICE[0] in text
    values = measured(text.replace(*TWICE))
    assert values["loss"] < 1e-5
    assert values["step_cpu"] > verifier.LIMITS["step_cpu"]


def test_a_port_that_is_fast_because_it_does_less_is_no_equal(
    measured: Callable, text_of: Callable[[str], str], verifier: ModuleType
) -> None:
    text = text_of("llama")
    assert IDLE[0] in text
    values = measured(text.replace(*IDLE))
    assert all(values[metric] > 3 * verifier.LIMITS[metric] for metric in ("loss", "logits")), values


def test_what_is_too_slow_is_said_in_seconds(verifier: ModuleType) -> None:
    fast, slow = torch.tensor([1.0, 1.1, 9.0]), torch.tensor([2.0, 2.5, 2.1])
    ours = {"step_cpu": slow, "loss": torch.tensor(1.0)}
    said = verifier.explain(ours, {"step_cpu": fast, "loss": torch.tensor(1.0)})
    assert said == ["step_cpu: 2 of the port, 1 of the reference"]


def test_every_width_grows_by_the_same() -> None:
    values = LlamaConfig(**small_case.SIZES).to_dict() | {"head_dim": 8, "sliding_window": 24}
    found = enlarge.enlarged(values)
    assert found["hidden_size"] == 256
    assert found["head_dim"] == 64
    assert found["intermediate_size"] == 8 * small_case.SIZES["intermediate_size"]
    assert found["sliding_window"] == 8 * 24
    assert found["num_attention_heads"] == values["num_attention_heads"]
    assert found["vocab_size"] > 4096


def test_where_the_reference_takes_no_wide_shape_it_says_why(tmp_path: Path) -> None:
    plain = small_case.make(tmp_path / "plain") / "checkpoint"
    text = (plain / "config.json").read_text()
    (plain / "config.json").write_text(text.replace('"silu"', '"nonesuch"'))
    enlarge.main({"plain": str(plain), "folder": str(tmp_path / "case"), "error": str(tmp_path / "error")})
    assert "nonesuch" in (tmp_path / "error").read_text()
    assert not (tmp_path / "case").exists()


ALONE = "ALONE = True\nLIMITS = {'x': 1.0}\ndef measure(ours, theirs):\n    return {'x': 0.0}\n"


def test_times_are_not_taken_on_drawn_cases(tmp_path: Path) -> None:
    """Those are small, and every other verifier is asked about them at the same time."""
    (tmp_path / "times.py").write_text(ALONE)
    with pytest.raises(PtwError, match="ALONE"):
        judge.read_verifiers({"times": tmp_path / "times.py"})
