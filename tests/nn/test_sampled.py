"""A softmax over drawn classes is the full one where all are drawn, and on average comes near to it."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from ptw.nn.head import Head
from ptw.nn.sampled import Drawn, Sampler, sampled_losses

CLASSES, WIDTH, CASES = 60, 8, 12


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(CASES, WIDTH, generator=random, dtype=torch.float64)
    weight = torch.randn(CLASSES, WIDTH, generator=random, dtype=torch.float64) * 0.2
    return hidden, weight, torch.randint(0, CLASSES, (CASES,), generator=random)


def popular() -> torch.Tensor:
    """Weights of a long tail: the first classes are expected more than once in 20 draws."""
    return 1 / torch.arange(1, CLASSES + 1, dtype=torch.float64)


WEIGHTS = {"uniform": torch.ones(CLASSES), "popularity": popular()}


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_all_classes_are_the_full_softmax(
    case: tuple[torch.Tensor, ...], weights: str, cap: float | None
) -> None:
    hidden, weight, targets = (tensor.clone() for tensor in case)
    drawn = Sampler(WEIGHTS[weights], CLASSES).of_step(3)
    assert sorted(drawn.ids_S.tolist()) == list(range(CLASSES))
    assert drawn.log_expected_S.abs().max() < 1e-6
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    ours = sampled_losses(hidden, weight, targets, drawn, cap)
    logits = hidden @ weight.T
    theirs = cross_entropy(
        logits if cap is None else torch.tanh(logits / cap) * cap, targets, reduction="none"
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for mine, wanted in zip(
        torch.autograd.grad(ours.sum(), leaves), torch.autograd.grad(theirs.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_class_is_drawn_as_often_as_is_said(weights: str) -> None:
    sampler, steps = Sampler(WEIGHTS[weights], 20, seed=1), 4000
    counts = torch.zeros(CLASSES, dtype=torch.float64)
    for step in range(steps):
        drawn = sampler.of_step(step)
        assert len(drawn.ids_S) == 20
        counts += torch.bincount(drawn.ids_S, minlength=CLASSES)
        torch.testing.assert_close(drawn.log_expected_S.double().exp(), sampler.expected[drawn.ids_S])
    expected = sampler.expected
    assert expected.sum().item() == pytest.approx(20)
    assert expected.max() <= 1
    errors = (expected * (1 - expected) / steps).sqrt().clamp(min=1e-9)
    certain = expected == 1
    assert (counts / steps)[certain].tolist() == [1.0] * int(certain.sum())
    # 60 classes: 4.5 standard errors are passed once in thousands of such tests
    assert ((counts / steps - expected).abs() / errors)[~certain].max() < 4.5
    share = expected[~certain] / WEIGHTS[weights][~certain]
    torch.testing.assert_close(share, share[:1].expand_as(share).contiguous())


@pytest.mark.parametrize("weights", WEIGHTS)
def test_its_mean_gradient_comes_near_to_the_full_one_and_without_the_correction_it_does_not(
    case: tuple[torch.Tensor, ...], weights: str
) -> None:
    hidden, weight, targets = case
    weight = weight.clone().requires_grad_()
    full = torch.autograd.grad(cross_entropy(hidden @ weight.T, targets, reduction="sum"), weight)[0]

    def away(draws: int, corrected: bool) -> float:
        """How far the mean gradient over many draws is from the full one, as a part of its norm."""
        sampler, total = Sampler(WEIGHTS[weights], draws), torch.zeros_like(full)
        for step in range(1000):
            drawn = sampler.of_step(step)
            if not corrected:
                drawn = Drawn(drawn.ids_S, torch.zeros_like(drawn.log_expected_S))
            total += torch.autograd.grad(sampled_losses(hidden, weight, targets, drawn).sum(), weight)[0]
        return ((total / 1000 - full).norm() / full.norm()).item()

    assert away(10, True) < 0.05 < 0.07 < away(10, False)
    assert away(40, True) < 0.01


def test_what_the_drawn_add_to_the_sum_is_on_average_what_all_others_add(
    case: tuple[torch.Tensor, ...],
) -> None:
    hidden, weight, targets = case
    logits = hidden @ weight.T
    others = logits.exp().sum(-1) - logits.exp().gather(-1, targets[:, None])[:, 0]
    sampler = Sampler(popular(), 15, seed=5)
    sums = []
    for step in range(4000):
        losses = sampled_losses(hidden, weight, targets, sampler.of_step(step))
        sums.append(losses.exp() * logits.gather(-1, targets[:, None])[:, 0].exp())
    found = torch.stack(sums) - logits.exp().gather(-1, targets[:, None])[:, 0]
    errors = found.std(0) / len(sums) ** 0.5
    assert ((found.mean(0) - others).abs() / errors).max() < 4.5


def test_only_rows_of_drawn_classes_and_targets_get_a_gradient(case: tuple[torch.Tensor, ...]) -> None:
    hidden, weight, targets = case
    weight = weight.clone().requires_grad_()
    drawn = Sampler(torch.ones(CLASSES), 5, seed=2).of_step(0)
    Head(weight, CLASSES).loss(hidden[None], targets[None], drawn=drawn).backward()
    assert weight.grad is not None
    touched = set(weight.grad.abs().sum(-1).nonzero()[:, 0].tolist())
    assert touched <= {*drawn.ids_S.tolist(), *targets.tolist()}
    assert set(targets.tolist()) <= touched


def test_chunks_ignored_targets_and_a_divisor_change_nothing(
    case: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, targets = case
    drawn = Sampler(popular(), 20).of_step(7)
    whole = sampled_losses(hidden / 2, weight, targets, drawn)
    monkeypatch.setattr("ptw.nn.sampled.CHUNK_ELEMENTS", 100)
    with_ignored = torch.cat([targets, torch.full((3,), -100)])
    more = torch.cat([hidden, torch.randn(3, WIDTH, dtype=torch.float64)])
    head = Head(weight, CLASSES, divisor=2.0)
    torch.testing.assert_close(head.sampled_losses(more[None], with_ignored[None], drawn), whole)
    assert head.loss(more[None, :0], with_ignored[None, :0], drawn=drawn).item() == 0


def test_a_step_draws_the_same_whoever_asks_and_another_step_others() -> None:
    one, again = (Sampler(popular(), 20, seed=4) for _ in range(2))
    assert torch.equal(one.of_step(9).ids_S, again.of_step(9).ids_S)
    assert not torch.equal(one.of_step(9).ids_S, one.of_step(10).ids_S)
    assert not torch.equal(one.of_step(9).ids_S, Sampler(popular(), 20, seed=5).of_step(9).ids_S)
