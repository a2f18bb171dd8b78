"""What an author reads: the family's own code and no more, within the tokens that were promised."""

from pathlib import Path

import pytest

from ptw.agent.begin import read
from ptw.agent.reading.api import port_api
from ptw.agent.reading.pages import DENSE_TOKENS, LARGEST_TOKENS, Page, count
from ptw.verify.reference.source import modeling

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    return {page.name: page for page in read(ROOT, "starcoder2").pages}


def test_a_dense_family_fits(pages: dict[str, Page]) -> None:
    assert sum(page.tokens for page in pages.values()) <= DENSE_TOKENS


def test_the_reference_is_what_the_causal_model_runs(pages: dict[str, Page]) -> None:
    text = pages["reference/modeling_starcoder2.py"].text
    for needed in ("class Starcoder2ForCausalLM", "class Starcoder2Attention", "def apply_rotary_pos_emb"):
        assert needed in text
    for other in ("ForSequenceClassification", "ForTokenClassification", "Licensed under", "_init_weights"):
        assert other not in text
    assert "class Starcoder2Config" in pages["reference/configuration_starcoder2.py"].text
    compile(text, "modeling", "exec")


def test_a_family_is_told_by_its_fields_and_tensors(pages: dict[str, Page]) -> None:
    lines = pages["family.md"].text.splitlines()
    assert "norm_epsilon = 1e-05: moves it" in lines
    assert "use_bias = true: moves it" in lines
    assert any(line.startswith("model.layers.N.mlp.c_fc.weight [") for line in lines)


def test_the_gate_and_what_ptw_offers_are_told(pages: dict[str, Page]) -> None:
    gate = pages["gate.md"].text
    assert "## logits\n" in gate
    assert "## speed (at acceptance only)" in gate
    assert "linspace" in gate
    api = pages["port.md"].text
    for needed in (
        "def attend(",
        "class RMSNorm",
        "class PadVocabulary",
        "def read_config(",
        "class RopeConfig",
    ):
        assert needed in api
    assert "_sdpa" not in api


def test_what_is_inherited_is_followed() -> None:
    texts = modeling("gemma3_text")
    assert any("class Gemma3TextConfig" in text for text in texts.values())
    assert not any("SiglipVisionModel(" in text for text in texts.values())


def test_tokens_are_counted_rather_too_many_than_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    for text in (port_api(), *modeling("mixtral").values()):
        assert count(text) >= litellm.token_counter(model="openai/gpt-4o", text=text)


@pytest.mark.slow
def test_the_largest_family_fits() -> None:
    assert sum(page.tokens for page in read(ROOT, "deepseek_v4").pages) <= LARGEST_TOKENS
