"""A real checkpoint: the port is as good as the reference on a real text, in the checkpoint's own dtype."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from ptw.ports.port import load_port
from ptw.verify import extra_cases, sandbox
from ptw.verify.cases import Family
from ptw.verify.judge import of_verifier
from ptw.verify.port import trace as trace_port
from ptw.verify.reference import trace as trace_reference
from ptw.verify.subject import probes
from ptw.workspace import rooms
from tests.verify import small_case

FILE = rooms.files(None, "verifiers")["checkpoint"]
UNCAST = (
    "        hidden_BTD = self.embed_tokens(ids_BT)",
    "        hidden_BTD = self.embed_tokens(ids_BT).bfloat16().to(self.norm.weight.dtype)",
)
LATE = (
    "        return self.model(ids_BT, layout, cache)",
    "        hidden_BTD = self.model(ids_BT, layout, cache)\n"
    "        late = layout.positions_BT[..., None] > 400\n"
    "        return hidden_BTD.where(~late, hidden_BTD * 1.05)",
)


def workspace(root: Path, hf: Path | str, more: str = "") -> Path:
    root.mkdir(exist_ok=True)
    (root / "workspace.toml").write_text(
        f'[workspace]\nname = "catalogue"\n\n[models.stories]\nhf = "{hf}"\n{more}'
    )
    return root


@pytest.fixture
def stories(real_data: Path, tmp_path: Path) -> Path:
    """The case that the gate makes of a real trained checkpoint."""
    family = Family("llama", tmp_path / "family")
    extra_cases.add_checkpoints([family], workspace(tmp_path / "ws", real_data / "stories260K" / "hf"))
    return tmp_path / "family" / "checkpoint" / "stories"


@pytest.fixture
def measured(
    write_port: Callable[[str, str], Path], tmp_path: Path
) -> Callable[[str, Path], tuple[dict[str, float], list[str]]]:
    def run(text: str, given: Path) -> tuple[dict[str, float], list[str]]:
        verifier: ModuleType = rooms.load(FILE)
        target = tmp_path / "answer.safetensors"
        trace_reference.answer({"given": str(given), "write": str(target), "verifiers": [str(FILE)]})
        root = write_port("llama", text)
        port = load_port(root / "models" / "llama.py")
        ours = of_verifier(
            trace_port.trace(port, root, probes({"checkpoint": FILE}), given, tmp_path), "checkpoint"
        )
        theirs = of_verifier(load_file(target), "checkpoint")
        found = verifier.measure(ours, theirs)
        assert found.keys() == {name for name in verifier.LIMITS if verifier.applies(name, theirs)}
        passed = all(value <= verifier.LIMITS[name] for name, value in found.items())
        return found, [] if passed else verifier.explain(ours, theirs)

    return run


def test_the_case_is_a_text_and_links(stories: Path, real_data: Path) -> None:
    inputs = load_file(stories / "inputs.safetensors")
    assert len(inputs["text.ids"]) == 512
    assert inputs["text.exact"]
    links = {link.name: link.resolve() for link in (stories / "checkpoint").iterdir()}
    assert links["model.safetensors"] == (real_data / "stories260K" / "hf" / "model.safetensors").resolve()
    assert set(extra_cases.files_of(stories.parent)) == set(links.values())


def test_a_right_port_is_as_good_as_the_reference(
    stories: Path, measured: Callable, text_of: Callable[[str], str]
) -> None:
    found, said = measured(text_of("llama"), stories)
    assert found.keys() == {"relative", "error_wide"}
    assert not said
    assert found["relative"] < 1e-12


@pytest.mark.parametrize("edit", [UNCAST, LATE], ids=["rounded", "late positions"])
def test_a_wrong_port_is_found(
    edit: tuple[str, str], stories: Path, measured: Callable, text_of: Callable[[str], str]
) -> None:
    text = text_of("llama")
    assert edit[0] in text
    found, said = measured(text.replace(*edit), stories)
    assert "of 512 positions" in said[0], found


def test_a_large_one_is_held_to_the_references_own_disagreement(
    stories: Path, measured: Callable, text_of: Callable[[str], str]
) -> None:
    inputs = load_file(stories / "inputs.safetensors")
    save_file(inputs | {"text.exact": torch.tensor(False)}, stories / "inputs.safetensors")
    found, said = measured(text_of("llama"), stories)
    assert found.keys() == {"divergence"}
    assert not said, found
    found, said = measured(text_of("llama").replace(*LATE), stories)
    assert said, found


def test_one_in_16_bits_is_held_to_its_own_error(
    tmp_path: Path, measured: Callable, text_of: Callable[[str], str]
) -> None:
    """Without a tokenizer the bytes of the text are its tokens."""
    checkpoint = small_case.make(tmp_path / "small", max_position_embeddings=1024) / "checkpoint"
    family = Family("llama", tmp_path / "family")
    extra_cases.add_checkpoints([family], workspace(tmp_path / "ws", checkpoint))
    found, said = measured(text_of("llama"), tmp_path / "family" / "checkpoint" / "stories")
    assert found.keys() == {"relative", "error"}
    assert not said, found


def test_without_weights_at_hand_it_says_so(tmp_path: Path) -> None:
    for hf, more in (("nowhere", 'revision = "' + "0" * 40 + '"\n'), ("empty", "")):
        (tmp_path / "ws" / "empty").mkdir(parents=True, exist_ok=True)
        family = Family("llama", tmp_path / f"family-{hf}")
        extra_cases.add_checkpoints([family], workspace(tmp_path / "ws", hf, more))
        assert not list((family.folder / "checkpoint").iterdir())
        why = extra_cases.why_not(family, "checkpoint")
        assert ("weights of llama" if hf == "nowhere" else "config.json is missing") in why


def test_what_a_link_leads_to_keeps_its_permissions(tmp_path: Path) -> None:
    secret = tmp_path / "weights"
    secret.write_text("x")
    secret.chmod(0o600)
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "link").symlink_to(secret)
    sandbox.readable(tmp_path / "case")
    assert secret.stat().st_mode & 0o777 == 0o600


def test_weights_for_their_owner_only_are_copied_if_small_else_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a port's process has the rights of whoever started it")
    checkpoint = small_case.make(tmp_path / "small", max_position_embeddings=1024) / "checkpoint"
    (checkpoint / "model.safetensors").chmod(0o600)
    family = Family("llama", tmp_path / "small-family")
    extra_cases.add_checkpoints([family], workspace(tmp_path / "ws", checkpoint))
    (copied,) = family.folder.glob("checkpoint/stories/checkpoint/*.safetensors")
    assert not copied.is_symlink()
    monkeypatch.setattr(extra_cases, "SMALL_BYTES", 1)
    family = Family("llama", tmp_path / "large-family")
    extra_cases.add_checkpoints([family], workspace(tmp_path / "ws", checkpoint))
    assert "chmod o+r" in extra_cases.why_not(family, "checkpoint")
