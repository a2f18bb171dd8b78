"""Every activation of transformers that has no weights gives the reference's values in exact arithmetic."""

import pytest
import torch
from transformers.activations import ACT2FN

from ptw.nn.activation import ACTIVATIONS

LEARNT = {"prelu", "xielu"}  # these have weights of their own


@pytest.mark.parametrize("name", sorted(set(ACT2FN) - LEARNT))
def test_an_activation_is_the_references(name):
    hidden = torch.linspace(-12, 12, 500, dtype=torch.float64).requires_grad_()
    ours, theirs = ACTIVATIONS[name](hidden), ACT2FN[name](hidden)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)
    slopes = [torch.autograd.grad(values.sum(), hidden)[0] for values in (ours, theirs)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-13)


def test_no_name_is_our_own():
    assert set(ACTIVATIONS) <= set(ACT2FN) - LEARNT
