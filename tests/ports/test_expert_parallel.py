"""Which modules are experts that can be dealt is seen from their parameters; a fault is told by name."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.ports import expert_parallel
from ptw.ports.expert_parallel import owners_of


class Stack(nn.Module):
    """Experts of a user's own, which are not of ptw.nn."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        for number, shape in enumerate(shapes):
            self.register_parameter(f"matrix{number}", nn.Parameter(torch.zeros(shape)))

    def forward(self, hidden_TD: Tensor) -> Tensor:
        return hidden_TD


def test_a_convolution_is_no_stack_of_experts() -> None:
    model = nn.ModuleDict({"conv": nn.Conv1d(4, 4, 2), "experts": Stack((4, 2, 3), (4, 2))})
    assert list(owners_of(model, 2, "model test")) == ["experts"]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([(4, 2, 3), (2, 3)], "experts.matrix1 (2, 3) is no stack of the 4 experts beside it"),
        ([(6, 2, 3)], "experts has 6 experts, which cannot be dealt to 4"),
    ],
)
def test_what_cannot_be_dealt_is_refused_by_name(shapes: list[tuple[int, ...]], said: str) -> None:
    with pytest.raises(PtwError, match=re.escape(f"model test: experts = 4: {said}")):
        owners_of(nn.ModuleDict({"experts": Stack(*shapes)}), 4, "model test")


def test_experts_that_are_not_of_ptw_nn_are_refused_where_they_would_compute_wrongly() -> None:
    group: Any = None  # nobody is asked
    with pytest.raises(PtwError, match=r"blocks\.0\.experts: it computes its experts without ptw\.nn"):
        expert_parallel._together(Stack((4, 2, 3)).forward, group, "blocks.0.experts", torch.zeros(2, 3))
