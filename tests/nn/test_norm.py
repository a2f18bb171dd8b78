"""Norms and scaled embeddings are the references', bit for bit in bf16, their weights far from neutral."""

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm, Gemma3TextScaledWordEmbedding
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ptw.nn.embedding import ScaledEmbedding
from ptw.nn.norm import CentredRMSNorm, RMSNorm

WIDTH = 48
NORMS = {"llama": (RMSNorm, LlamaRMSNorm), "gemma": (CentredRMSNorm, Gemma3RMSNorm)}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_rounds_where_the_reference_does(name, dtype):
    generator = torch.Generator().manual_seed(2)
    ours, theirs = (kind(WIDTH, eps=1e-2) for kind in NORMS[name])
    ours.load_state_dict({"weight": torch.randn(WIDTH, generator=generator)})
    theirs.load_state_dict(ours.state_dict())
    hidden = 3 * torch.randn(200, WIDTH, generator=generator).to(dtype)
    found, expected = ours.to(dtype)(hidden), theirs.to(dtype)(hidden)
    assert found.dtype == dtype
    assert torch.equal(found, expected)
    other = NORMS["gemma" if name == "llama" else "llama"][0](WIDTH, 1e-2).to(dtype)
    other.load_state_dict({"weight": ours.weight - 1 if name == "llama" else ours.weight + 1})
    assert dtype == torch.float32 or not torch.equal(found, other(hidden))  # as each rounds, so it is named


@pytest.mark.parametrize("kind", [RMSNorm, CentredRMSNorm])
def test_a_neutral_weight_leaves_the_normalised_as_it_is(kind):
    norm = kind(WIDTH, 0.0)
    norm.weight.data.fill_(kind.neutral)
    hidden = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.allclose(norm(hidden).pow(2).mean(-1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("scale", [3072**0.5, 60**0.5, 12, 0.37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_scale_is_rounded_to_the_dtype_first(scale, dtype):
    ours = ScaledEmbedding(50, WIDTH, 3, scale).to(dtype)
    theirs = Gemma3TextScaledWordEmbedding(50, WIDTH, 3, scale).to(dtype)
    theirs.weight.data.copy_(ours.weight.data)
    ids = torch.arange(50)
    assert torch.equal(ours(ids), theirs(ids))
    if dtype == torch.bfloat16 and scale == 3072**0.5:
        assert not torch.equal(ours(ids), ours.weight * scale)


def test_a_padding_token_learns_nothing():
    embedding = ScaledEmbedding(5, 4, 3, 2.0)
    embedding(torch.tensor([1, 3])).sum().backward()
    assert embedding.weight.grad[1].tolist() == [2.0] * 4
    assert embedding.weight.grad[3].abs().max() == 0
