"""Sharded, a right port says what it says alone; one that breaks when sharded is found by this alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from ptw.ports.port import load_port
from ptw.verify import sandbox
from ptw.verify.judge import of_verifier
from ptw.verify.port import trace as trace_port
from ptw.verify.reference import trace as trace_reference
from ptw.verify.subject import Tensors, probes
from ptw.workspace import rooms
from tests.verify import small_case

FILES = {name: rooms.files(None, "verifiers")[name] for name in ("sharding", "logits")}
CASES = {"plain": {}, "tied": {"tie_word_embeddings": True}}
# alone, each of these is right; `says` is what the gate says of it, or none where a number does
WRONG = {
    "a weight read past its layer": (
        (
            (
                "            hidden_BTD = block(hidden_BTD, rotate, layout, layer_cache)",
                "            scale = self.layers[0].input_layernorm.weight.sum() * 0 + 1\n"
                "            hidden_BTD = block(hidden_BTD, rotate, layout, layer_cache) * scale",
            ),
        ),
        "mixed torch.Tensor and DTensor",
    ),
    "a projection computed in another block": (
        (
            (
                "            hidden_BTD = block(hidden_BTD, rotate, layout, layer_cache)",
                "            last = self.layers[-1]\n"
                "            extra = last.mlp.gate_proj(last.input_layernorm(hidden_BTD))\n"
                "            hidden_BTD = block(hidden_BTD, rotate, layout, layer_cache)"
                " + extra.sum() * 0",
            ),
        ),
        "DTensor",
    ),
    "each process its own": (
        (
            ("import Tensor, nn\n", "import Tensor, distributed, nn\n"),
            (
                "        return self.norm(hidden_BTD)",
                "        rank = distributed.get_rank() if distributed.is_initialized() else 0\n"
                "        return self.norm(hidden_BTD) * (1 + 1e-6 * rank)",
            ),
        ),
        None,
    ),
}


@dataclass(frozen=True)
class Asked:
    given: Path
    theirs: dict[str, Tensors]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    given, theirs = tmp_path_factory.mktemp("given"), {}
    for name, values in CASES.items():
        folder = small_case.make(given / name, **values)
        target = tmp_path_factory.mktemp("answers") / f"{name}.safetensors"
        files = [str(file) for file in FILES.values()]
        trace_reference.answer({"given": str(folder), "write": str(target), "verifiers": files})
        given_inputs = {f"/given.{key}": value for key, value in small_case.inputs_of(folder).items()}
        theirs[name] = load_file(target) | given_inputs
    return Asked(given, theirs)


@pytest.fixture
def verifier() -> ModuleType:
    return rooms.load(FILES["sharding"])


@pytest.fixture
def sharded(
    asked: Asked, write_port: Callable[[str, str], Path], tmp_path: Path
) -> Callable[[str], tuple[sandbox.Outcome, Path]]:
    """Run a text of llama's port apart, in two processes; gives what became of them and their output."""

    def run(text: str) -> tuple[sandbox.Outcome, Path]:
        room, output, gate = tmp_path / "verifiers", tmp_path / "output", tmp_path / "gate"
        room.mkdir()
        gate.mkdir()
        (gate / trace_port.GO).touch()
        (room / "sharding.py").write_text(FILES["sharding"].read_text())
        workspace = write_port("llama", text)
        inputs = {"workspace": workspace, "cases": asked.given, "verifiers": room, "gate": gate}
        limits = sandbox.Limits(seconds=60)
        return sandbox.run_apart(
            "ptw.verify.port.trace_sharded", inputs, output, limits, processes=2, linked=True
        ), output

    return run


def values_of(verifier: ModuleType, asked: Asked, output: Path) -> dict[str, dict[str, float]]:
    found = {}
    for name, theirs in asked.theirs.items():
        ours = load_file(output / name / "trace.safetensors")
        both = of_verifier(ours, "sharding"), of_verifier(theirs, "sharding")
        found[name] = verifier.measure(*both)
        if max(found[name].values()) > 1e-9:
            assert verifier.explain(*both)
    return found


def test_a_right_port_passes_tied_and_untied(
    sharded: Callable, text_of: Callable[[str], str], verifier: ModuleType, asked: Asked
) -> None:
    outcome, output = sharded(text_of("llama"))
    assert outcome.error == ""
    for values in values_of(verifier, asked, output).values():
        assert values.keys() == verifier.LIMITS.keys()
        assert max(values.values()) < 1e-12, values


@pytest.mark.parametrize("name", WRONG)
def test_what_breaks_when_it_is_sharded_is_found(
    name: str,
    sharded: Callable,
    text_of: Callable[[str], str],
    verifier: ModuleType,
    asked: Asked,
    write_port: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    edits, says = WRONG[name]
    text = text_of("llama")
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    _, output = sharded(text)
    if says is None:
        found = values_of(verifier, asked, output)
        assert any(
            value > verifier.LIMITS[metric] for values in found.values() for metric, value in values.items()
        )
    else:
        assert says in (output / "plain" / "error").read_text()
        assert "not run" in (output / "tied" / "error").read_text()
    # nothing is wrong with it in one process
    port = load_port(write_port("llama", text) / "models" / "llama.py")
    logits = {"logits": FILES["logits"]}
    ours = trace_port.trace(port, tmp_path / "workspace", probes(logits), asked.given / "plain", tmp_path)
    alone = rooms.load(FILES["logits"]).measure(
        of_verifier(ours, "logits"), of_verifier(asked.theirs["plain"], "logits")
    )
    assert alone["relative"] <= 1e-12


def test_this_machine_can_be_asked_whether_it_can(tmp_path: Path) -> None:
    """Without a loopback the try leaves no file, and says so: the gate then says that nothing was sharded."""
    (tmp_path / "gate").mkdir()
    if sandbox.namespaces() is None:
        pytest.skip("without a network of its own the machine's loopback is there")
    for linked in (True, False):
        output = tmp_path / f"linked-{linked}"
        inputs = {"gate": tmp_path / "gate"}
        limits = sandbox.Limits(seconds=60)
        outcome = sandbox.run_apart("ptw.verify.port.try_sharded", inputs, output, limits, 2, linked=linked)
        assert (output / "tried").exists() == linked
        assert (outcome.error == "") == linked
    assert torch.distributed.is_gloo_available()
