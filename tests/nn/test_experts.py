"""Experts that are run in groups give what one token at a time gives, and the same gradients."""

import pytest
import torch
from torch.nn import functional

from ptw.nn import experts
from ptw.nn.experts import Groups, grouped_linear

EXPERTS, CHOSEN, WIDTH, INNER = 7, 3, 10, 6
LONG = (experts.LONG, experts.LONG + 13)  # widths of the other kernel


def choices(tokens: int, seed: int = 0, favourites: int = EXPERTS) -> torch.Tensor:
    """Each token's experts, no one twice; those from `favourites` on are chosen by none."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tokens, favourites, generator=generator).topk(CHOSEN).indices


def drawn(tokens: int, dtype: torch.dtype = torch.float64, widths=(WIDTH, INNER)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    width, inner = widths
    shapes = [(tokens, width), (tokens, CHOSEN), (EXPERTS, inner, width), (EXPERTS, inner)]
    shapes += [(EXPERTS, width, inner), (EXPERTS, width)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def grouped(expert_TK, hidden_TD, weight_TK, up, up_bias, down, down_bias):
    groups = Groups.of(expert_TK, EXPERTS)
    inner = functional.silu(grouped_linear(groups.rows(hidden_TD), up, groups, up_bias))
    return groups.sum(grouped_linear(inner, down, groups, down_bias), weight_TK)


def by_hand(expert_TK, hidden_TD, weight_TK, up, up_bias, down, down_bias):
    out = []
    for token, chosen in enumerate(expert_TK.tolist()):
        total = torch.zeros_like(hidden_TD[0])
        for place, expert in enumerate(chosen):
            inner = functional.silu(up[expert] @ hidden_TD[token] + up_bias[expert])
            total = total + weight_TK[token, place] * (down[expert] @ inner + down_bias[expert])
        out.append(total)
    return torch.stack(out)


def without_filler(expert_TK: torch.Tensor) -> Groups:
    """As on a GPU: nothing waits for the sizes of the groups."""
    experts_R, order_R = expert_TK.flatten().sort(stable=True)
    ends_E = torch.searchsorted(experts_R, torch.arange(EXPERTS), right=True).int()
    row_TK = torch.empty_like(order_R)
    row_TK[order_R] = torch.arange(len(order_R))
    return Groups(order_R // CHOSEN, row_TK.view(expert_TK.shape), ends_E, None)


def answers(compute, expert_TK, inputs):
    out = compute(expert_TK, *inputs)
    return [out.detach(), *torch.autograd.grad((out.square() + out).sum(), inputs)]


@pytest.mark.parametrize("tokens", [1, 2, 5, 64, 300])
@pytest.mark.parametrize("favourites", [CHOSEN, 5, EXPERTS])
def test_groups_give_what_each_token_gives_alone(tokens, favourites):
    expert_TK, inputs = choices(tokens, favourites=favourites), drawn(tokens)
    ours, theirs = (answers(compute, expert_TK, inputs) for compute in (grouped, by_hand))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).norm() <= 1e-14 * other.norm()


def test_experts_without_tokens_get_gradients_of_zero():
    inputs = drawn(9)
    gradients = answers(grouped, choices(9, favourites=4), inputs)[3:]
    assert all(gradient[4:].abs().max() == 0 for gradient in gradients)
    assert all(gradient[:4].abs().amax() > 0 for gradient in gradients)


@pytest.mark.parametrize("widths", [(WIDTH, INNER), LONG])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_same_twice_is_bit_for_bit_the_same(dtype, widths):
    expert_TK, inputs = choices(200), drawn(200, dtype, widths)
    first, second = (answers(grouped, expert_TK, inputs) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("widths", [(WIDTH, INNER), LONG])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_other_tokens_change_no_bit_of_a_token(dtype, widths):
    """Also where they change how many rows its experts have: packed documents must not see each other."""
    expert_TK, inputs = choices(200), drawn(200, dtype, widths)
    whole = grouped(expert_TK, *inputs)
    for count in (1, 2, 3, 17, 90, 199):
        few = [inputs[0][:count], inputs[1][:count], *inputs[2:]]
        assert torch.equal(grouped(expert_TK[:count], *few), whole[:count])


@pytest.mark.parametrize("summed", [40, 75, *LONG])
@pytest.mark.parametrize("width", [24, 33, 77, 99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("transposed", [True, False])
def test_the_bits_of_a_row_do_not_depend_on_its_place(dtype, width, summed, transposed):
    generator = torch.Generator().manual_seed(0)
    hidden_TD = torch.randn(250, summed, generator=generator, dtype=torch.float64).to(dtype)
    weight_EIO = torch.randn(EXPERTS, summed, width, generator=generator, dtype=torch.float64).to(dtype)
    weight_EOI = weight_EIO.transpose(1, 2)
    weight_EOI = weight_EOI if transposed else weight_EOI.contiguous()
    expert_TK, other_TK = choices(250), choices(250, seed=5)
    other_TK[100:150] = expert_TK[100:150]
    found = []
    for chosen_TK in (expert_TK, other_TK):
        groups = Groups.of(chosen_TK, EXPERTS)
        out_RO = grouped_linear(groups.rows(hidden_TD), weight_EOI, groups)
        found.append(out_RO[groups.row_TK][100:150])
    assert torch.equal(*found)


@pytest.mark.parametrize("widths", [(WIDTH, INNER), LONG])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_that_of_the_dtype(dtype, widths):
    expert_TK = choices(200)
    exact = answers(
        grouped, expert_TK, [x.detach().double().requires_grad_() for x in drawn(200, dtype, widths)]
    )
    for mine, other in zip(answers(grouped, expert_TK, drawn(200, dtype, widths)), exact, strict=True):
        assert mine.dtype == dtype
        assert (mine - other).norm() < 4 * torch.finfo(dtype).eps * other.norm()


@pytest.mark.parametrize("frozen", [2, 3])
def test_frozen_weights_get_no_gradient(frozen):
    inputs = drawn(20)
    inputs[frozen].requires_grad_(False)
    grouped(choices(20), *inputs).sum().backward()
    assert inputs[frozen].grad is None
    assert all(x.grad is not None for place, x in enumerate(inputs) if place != frozen)


def test_every_way_to_multiply_gives_the_same(monkeypatch):
    """oneDNN's product, torch's own, and the grouped kernel that a GPU has, which a CPU imitates."""
    expert_TK, inputs = choices(60), drawn(60, torch.float32, LONG)
    found = [answers(grouped, expert_TK, inputs)]
    monkeypatch.setattr(experts, "_one_dnn", lambda: None)
    found.append(answers(grouped, expert_TK, inputs))
    plain = without_filler(expert_TK)
    monkeypatch.setattr(Groups, "of", lambda *_: plain)
    assert not experts._kernels_take(inputs[0], inputs[2]), "fp32 takes the loop, also without sizes"
    found.append(answers(grouped, expert_TK, inputs))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-2)


def test_the_grouped_kernel_of_a_gpu_gives_the_same(monkeypatch):
    """On widths that it takes, in bf16."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(50, 16), (EXPERTS, 24, 16), (EXPERTS, 24)]
    hidden, weight, bias = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    groups, kernels = Groups.of(choices(50), EXPERTS), without_filler(choices(50))
    looped = grouped_linear(groups.rows(hidden), weight, groups, bias)[groups.row_TK]
    called = []
    real = functional.grouped_mm
    monkeypatch.setattr(functional, "grouped_mm", lambda *a, **k: called.append(1) or real(*a, **k))
    found = grouped_linear(kernels.rows(hidden), weight, kernels, bias)[kernels.row_TK]
    torch.testing.assert_close(found, looped, rtol=2e-2, atol=2e-2)
    assert called
