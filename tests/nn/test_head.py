"""The chunked loss is the plain one, in value and gradient, and padded rows take no part."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ptw.nn import head as head_module
from ptw.nn.head import Form, Head, linear_cross_entropy, padded_rows

VOCABULARY, WIDTH, TOKENS = 37, 12, 50


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(1, TOKENS, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(padded_rows(VOCABULARY), WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCABULARY, (1, TOKENS), generator=generator)
    targets[0, ::3] = -100
    return hidden, weight.requires_grad_(), targets


def plain_loss(head, hidden, targets, label_smoothing=0.0, z_loss=0.0):
    logits = functional.linear(hidden / head.divisor, head.weight_VD[:VOCABULARY])
    logits = logits if head.cap is None else head.cap * torch.tanh(logits / head.cap)
    smoothed = {"reduction": "sum", "label_smoothing": label_smoothing}
    squares = logits[0][targets[0] != -100].logsumexp(-1).square()
    return functional.cross_entropy(logits[0], targets[0], **smoothed) + z_loss * squares.sum()


OPTIONS = [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-2}, {"label_smoothing": 0.3, "z_loss": 0.5}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("chunk_tokens", [1, 7, 1000])
@pytest.mark.parametrize(("divisor", "cap"), [(1.0, None), (2.5, None), (1.0, 3.0), (0.4, 1.7)])
def test_value_and_gradients_are_those_of_the_plain_loss(monkeypatch, chunk_tokens, divisor, cap, options):
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", chunk_tokens * VOCABULARY)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # exact arithmetic: no fp32 inside
    hidden, weight, targets = case()
    head = Head(weight, VOCABULARY, divisor, cap)
    (2.5 * head.loss(hidden, targets, **options)).backward()
    ours = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    plain = plain_loss(head, hidden, targets, **options)
    (2.5 * plain).backward()
    torch.testing.assert_close(head.loss(hidden, targets, **options), plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, (hidden.grad, weight.grad), rtol=1e-12, atol=1e-13)
    assert weight.grad[VOCABULARY:].abs().max() == 0


@pytest.mark.parametrize("cap", [None, 3.0])
def test_a_capped_loss_is_that_of_the_capped_logits(cap):
    hidden, weight, targets = case()
    head = Head(weight, VOCABULARY, 1.5, cap)
    from_logits = functional.cross_entropy(head.logits(hidden)[0], targets[0], reduction="sum")
    torch.testing.assert_close(head.loss(hidden, targets).double(), from_logits, rtol=1e-6, atol=0)
    assert cap is None or head.logits(100 * hidden).abs().max() <= cap


class LargestTensor(TorchDispatchMode):
    """The most elements that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        if isinstance(found, torch.Tensor):
            self.elements = max(self.elements, found.numel())
        return found


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[-1]])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_the_logits_never_stand_in_memory_whole(monkeypatch, cap, options):
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", 4 * VOCABULARY)
    hidden, weight, targets = case()
    head = Head(weight, VOCABULARY, 2.0, cap)
    with LargestTensor() as chunked:
        head.loss(hidden, targets, **options).backward()
    with LargestTensor() as whole:
        plain_loss(head, hidden, targets, **options).backward()
    assert chunked.elements <= max(weight.numel(), hidden.numel()) < whole.elements == TOKENS * VOCABULARY


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


def test_a_padded_row_takes_no_share_of_the_smoothing():
    """The mean of the logits is over the vocabulary: another padded row changes nothing."""
    hidden, weight, targets = case()
    longer = torch.cat([weight, torch.full_like(weight, 3.0)]).detach()
    kept = targets[0].clamp(min=0)
    losses = [
        linear_cross_entropy(hidden[0], w, kept, VOCABULARY, Form(None, 0.2, 0.1)) for w in (weight, longer)
    ]
    assert torch.equal(*losses)


def test_logits_have_no_padded_ids():
    hidden, weight, _ = case()
    assert Head(weight, VOCABULARY).logits(hidden).shape == (1, TOKENS, VOCABULARY)
    assert [padded_rows(size) for size in (1, 64, 65)] == [64, 64, 128]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_wide_logits_tell_apart_what_narrow_ones_do_not(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(0)
    weight_VD = torch.randn(3000, 8, generator=random, dtype=torch.float64).to(dtype)
    hidden_ND = torch.randn(4, 8, generator=random, dtype=torch.float64).to(dtype)
    head, ids_I = Head(weight_VD, 2990, divisor=2.0, cap=9.0), torch.arange(2989, 0, -2)
    exact_NV = torch.tanh(hidden_ND.double() @ weight_VD[:2990].double().T / 18) * 9
    monkeypatch.setattr(head_module, "CHUNK_ELEMENTS", 8 * 700)
    with torch.autocast("cpu", torch.bfloat16):
        of_all_NV, of_some_NI = head.wide_logits(hidden_ND), head.wide_logits(hidden_ND, ids_I)
    torch.testing.assert_close(of_all_NV.double(), exact_NV, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(of_some_NI.double(), exact_NV[:, ids_I], rtol=1e-5, atol=1e-5)
    assert of_all_NV.dtype == torch.promote_types(dtype, torch.float32)
    assert len(of_all_NV[0].unique()) > 2900
    assert len(head.logits(hidden_ND.bfloat16().to(dtype)).bfloat16()[0].unique()) < 1500
