"""Two honest implementations agree in exact arithmetic, and the weights that they are given say something."""

import copy
import math

import pytest
import torch

from ptw.verify.drawing.informative import informative_weights
from ptw.verify.drawing.sizes import PLAIN_SIZES, native
from ptw.verify.exact import exact
from ptw.verify.reference import hf

FAMILIES = ("llama", "qwen3", "gemma3_text", "qwen3_moe")
TOKENS = 120


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_references_two_attentions_agree(model_type: str) -> None:
    from transformers import AutoModelForCausalLM

    config = _config(model_type)
    ids = torch.arange(TOKENS)[None] * 7 % PLAIN_SIZES["vocab_size"]
    found = []
    with exact(), torch.no_grad():
        for attention in ("eager", "sdpa"):
            model = AutoModelForCausalLM.from_config(
                copy.deepcopy(config),
                dtype=torch.float64,
                attn_implementation=attention,
                experts_implementation="eager",
            )
            informative_weights(model, seed=3)
            found.append(model.eval()(ids, use_cache=False).logits[0])
    relative = (found[0] - found[1]).norm(dim=-1) / found[0].norm(dim=-1)
    assert relative.max() < 2e-14


def test_every_explicit_fp32_is_lifted() -> None:
    value = torch.ones(2, dtype=torch.float64)
    with exact():
        lifted = (
            value.float(),
            value.to(torch.float32),
            value.to(dtype=torch.float32),
            value.type(torch.float32),
            value.softmax(-1, dtype=torch.float32),
            torch.arange(3, dtype=torch.float32),
            torch.tensor([1.0], dtype=torch.float),
            torch.zeros(2),
            torch.nn.Linear(2, 2).float().weight,
        )
        assert {tensor.dtype for tensor in lifted} == {torch.float64}
    assert value.float().dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("model_type", FAMILIES)
def test_attention_is_peaked_and_weights_fit_bf16(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spreads = []
    softmax = torch.nn.functional.softmax

    def watched(scores: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if scores.dim() == 4:
            seen = scores[scores > -1e30]
            spreads.append(float(seen.std()))
        return softmax(scores, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "softmax", watched)
    with exact(), torch.no_grad():
        model = hf.drawn(_config(model_type), seed=5)
        hf.forward(model, torch.arange(TOKENS) % PLAIN_SIZES["vocab_size"])
    assert 1.2 < sum(spreads) / len(spreads) < 2.6
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, tensor.to(torch.bfloat16).double()), name
        assert tensor.std() > 0.01 or math.prod(tensor.shape) == 1, name


def _config(model_type: str) -> object:
    family = hf.config_class(model_type)
    return family(**native(family, PLAIN_SIZES))
