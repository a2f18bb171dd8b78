"""The chunked loss is the plain one, in value and gradient, and padded rows take no part."""

import pytest
import torch
from torch.nn import functional

from ptw.nn import head as head_module
from ptw.nn.head import Head, linear_cross_entropy, padded_rows

VOCABULARY, WIDTH, TOKENS = 37, 12, 50


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(1, TOKENS, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(padded_rows(VOCABULARY), WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCABULARY, (1, TOKENS), generator=generator)
    targets[0, ::3] = -100
    return hidden, weight.requires_grad_(), targets


@pytest.mark.parametrize("chunk_tokens", [1, 7, 1000])
def test_value_and_gradients_are_those_of_the_plain_loss(monkeypatch, chunk_tokens):
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", chunk_tokens * VOCABULARY)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # exact arithmetic: no fp32 inside
    hidden, weight, targets = case()
    (2.5 * Head(weight, VOCABULARY).loss(hidden, targets)).backward()
    ours = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    logits = functional.linear(hidden, weight[:VOCABULARY])
    plain = functional.cross_entropy(logits[0], targets[0], reduction="sum")
    (2.5 * plain).backward()
    torch.testing.assert_close(Head(weight, VOCABULARY).loss(hidden, targets), plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, (hidden.grad, weight.grad), rtol=1e-11, atol=1e-13)
    assert weight.grad[VOCABULARY:].abs().max() == 0


def test_no_target_gives_no_loss_and_no_gradient():
    hidden, weight, targets = case()
    loss = Head(weight, VOCABULARY).loss(hidden, torch.full_like(targets, -100))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().max() == 0


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets = case()
    linear_cross_entropy(hidden[0], weight.detach(), targets[0].clamp(min=0), VOCABULARY).backward()
    assert hidden.grad.abs().max() > 0


def test_logits_have_no_padded_ids():
    hidden, weight, _ = case()
    assert Head(weight, VOCABULARY).logits(hidden).shape == (1, TOKENS, VOCABULARY)
    assert [padded_rows(size) for size in (1, 64, 65)] == [64, 64, 128]
