"""Under top-k and top-p the gradient is that of the expected reward, over all that may be drawn."""

from pathlib import Path

import pytest
import torch

from ptw.nn.head import Head
from ptw.nn.nucleus import Drawable, drawable, likeliest, log_probs_among
from tests.train.conftest import planned, steps_of, trained

NARROW = [(0.7, 0), (1.0, 3), (0.8, 4)]


def test_what_may_be_drawn_by_hand() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log()

    def kept(top_p: float, top_k: int) -> list[int]:
        return likeliest(logits, top_p, top_k)[0].nonzero()[:, 0].tolist()

    assert kept(1.0, 0) == [0, 1, 2, 3]
    assert kept(1.0, 2) == [1, 2]
    assert kept(0.65, 0) == [1, 2]
    assert kept(0.71, 0) == [1, 2, 3]
    assert kept(0.01, 0) == [1]
    assert kept(0.55, 3) == [1, 2], "of what top-k leaves: 4/9 is less, 7/9 is not"
    assert likeliest(torch.zeros(1, 4), 1.0, 2).all(), "ties stay"


def head_of(seed: int, vocabulary: int = 7) -> tuple[Head, torch.Tensor]:
    torch.manual_seed(seed)
    weight_VD = torch.randn(vocabulary + 2, 5, dtype=torch.float64, requires_grad=True)
    return Head(weight_VD, vocabulary), torch.randn(1, 5, dtype=torch.float64)


@pytest.mark.parametrize(("top_p", "top_k"), NARROW)
@pytest.mark.parametrize("baseline", [0.0, 5.0])
def test_the_gradient_is_that_of_the_expected_reward(top_p: float, top_k: int, baseline: float) -> None:
    """Of every token that may be drawn, weighted by how often it is; no baseline changes it."""
    (head, hidden_1D), temperature = head_of(0), 0.8
    worth_V = torch.randn(7, dtype=torch.float64)
    every = torch.arange(7)

    logits_V = head.logits(hidden_1D)[0] / temperature
    allowed_V = likeliest(logits_V, top_p, top_k)
    policy_V = logits_V.masked_fill(~allowed_V, -torch.inf).softmax(-1)
    (wanted,) = torch.autograd.grad((policy_V * worth_V).sum(), head.weight_VD)

    hidden_MD = hidden_1D.expand(7, -1)
    among = drawable(head, hidden_MD, every, temperature, top_p, top_k)
    found_M = log_probs_among(head, hidden_MD, every, temperature, among)
    torch.testing.assert_close(found_M[allowed_V].exp(), policy_V[allowed_V])
    surrogate = (policy_V.detach() * (worth_V - baseline) * found_M)[allowed_V].sum()
    (ours,) = torch.autograd.grad(surrogate, head.weight_VD)
    torch.testing.assert_close(ours, wanted)

    whole_M = log_probs_among(head, hidden_MD, every, temperature, None)
    biased = (policy_V.detach() * (worth_V - baseline) * whole_M)[allowed_V].sum()
    (theirs,) = torch.autograd.grad(biased, head.weight_VD)
    assert (theirs - wanted).abs().max() > 1e-3, "over all tokens it is another gradient"


@pytest.mark.parametrize(("top_p", "top_k"), NARROW)
def test_a_step_away_the_ratio_still_has_the_right_mean(top_p: float, top_k: int) -> None:
    """The policy has moved, and the set is still that of the weights that drew: E[ratio] = 1."""
    (old, hidden_1D), every = head_of(1), torch.arange(7)
    new = Head(old.weight_VD + 0.3 * torch.randn_like(old.weight_VD), 7)
    hidden_MD = hidden_1D.expand(7, -1)
    among = drawable(old, hidden_MD, every, 1.0, top_p, top_k)
    assert among is not None
    before_M, now_M = (log_probs_among(head, hidden_MD, every, 1.0, among) for head in (old, new))
    allowed_V = likeliest(old.logits(hidden_1D)[0], top_p, top_k)
    torch.testing.assert_close(before_M[allowed_V].exp().sum().item(), 1.0)
    ratio = (now_M - before_M).exp()
    torch.testing.assert_close((before_M.exp() * ratio)[allowed_V].sum().item(), 1.0)


def test_a_token_from_outside_is_let_in() -> None:
    """Whoever drew it in other rounding may have set its edge elsewhere."""
    head, hidden_1D = head_of(2)
    least = head.logits(hidden_1D)[0].argmin()
    among = drawable(head, hidden_1D, least[None], 1.0, 0.3, 0)
    assert log_probs_among(head, hidden_1D, least[None], 1.0, among).isfinite().all()


def test_it_is_split_as_it_was_joined() -> None:
    parts = [
        Drawable(torch.tensor([1, 2, 5]), torch.tensor([2, 1])),
        Drawable(torch.tensor([3]), torch.tensor([1])),
    ]
    whole = Drawable.joined(parts)
    for one, again in zip(parts, whole.split([2, 1]), strict=True):
        assert one.ids_K.tolist() == again.ids_K.tolist()
        assert one.counts_M.tolist() == again.counts_M.tolist()
    assert whole.mask(6, torch.device("cpu")).nonzero().tolist() == [[0, 1], [0, 2], [1, 5], [2, 3]]


def test_a_reward_rises_from_what_top_p_and_top_k_leave(root: Path) -> None:
    narrow = {"top_p": 0.9, "top_k": 40, "temperature": 0.9, "kl": 0.001, "ahead": 1}
    steps = steps_of(trained(planned(root, "rl", steps=15, eval_every="none", **narrow)).folder)
    assert sum(s["reward"] for s in steps[-3:]) / 3 > steps[0]["reward"] + 0.2
    assert max(abs(step["gap"] - 1) for step in steps) < 1e-4
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-7)
