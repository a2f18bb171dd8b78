"""Every weight operator gives back what it took, bit for bit."""

import pytest
import torch

from ptw.ports.mapping import as_named, held_wide
from ptw.ports.weights import (
    Either,
    Fuse,
    Named,
    PadVocabulary,
    Rename,
    Same,
    Split,
    Stack,
    Transpose,
    Wide,
)

OPERATORS = [
    (Same("a"), [(3, 4)]),
    (Rename("a", "b"), [(3, 4)]),
    (Wide(Rename("a", "b")), [(3, 4)]),
    (Fuse(("q", "k", "v"), "qkv", (4, 2, 2)), [(4, 5), (2, 5), (2, 5)]),
    (Fuse(("gate", "up"), "gate_up", (3, 3), dim=1), [(5, 3), (5, 3)]),
    (Split("qkv", ("q", "k", "v"), (4, 2, 2)), [(8, 5)]),
    (Transpose("a", "b"), [(3, 4)]),
    (Stack(("expert.0", "expert.1"), "experts"), [(3, 4), (3, 4)]),
    (Stack(("0.gate", "0.up", "1.gate", "1.up"), "experts", parts=2), [(3, 4)] * 4),
    (Either((Stack(("0", "1"), "experts"), Same("experts"))), [(3, 4), (3, 4)]),
    (PadVocabulary("table", 70), [(70, 4)]),
    (Named(PadVocabulary("table", 70), ("table", "old_table")), [(70, 4)]),
]


@pytest.mark.parametrize(("operator", "shapes"), OPERATORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_operator_is_exact_both_ways(operator, shapes, dtype):
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    ours = operator.from_hf(tensors)
    assert len(ours) == len(operator.ours)
    back = operator.to_hf(ours)
    assert len(back) == len(operator.theirs)
    for before, after in zip(tensors, back, strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)


def test_a_padded_table_holds_zeros_up_to_a_multiple_of_64():
    (table,) = PadVocabulary("table", 70).from_hf([torch.ones(70, 4)])
    assert table.shape == (128, 4)
    assert table[70:].abs().max() == 0


@pytest.mark.parametrize(
    ("found", "written"),
    [({"now"}, "now"), ({"before"}, "before"), (set(), "now"), ({"now", "before"}, "now")],
)
def test_a_tensor_of_several_names_goes_by_the_one_that_is_there(found, written):
    plain, named = as_named([Same("a"), Named(Rename("now", "ours"), ("now", "before"))], found)
    assert plain == Same("a")
    assert (named.theirs, named.ours) == ((written,), ("ours",))


def test_parts_of_an_expert_lie_one_below_the_other():
    parts = [torch.full((2, 3), float(number)) for number in range(4)]
    (stacked,) = Stack(("0.gate", "0.up", "1.gate", "1.up"), "experts", parts=2).from_hf(parts)
    assert stacked[:, :, 0].tolist() == [[0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]]


@pytest.mark.parametrize(
    ("found", "taken"),
    [({"0", "1"}, ("0", "1")), ({"experts"}, ("experts",)), (set(), ("0", "1")), ({"0"}, ("0", "1"))],
)
def test_of_several_forms_the_one_is_taken_that_is_there_whole(found, taken):
    (operator,) = as_named([Either((Stack(("0", "1"), "experts"), Same("experts")))], found)
    assert (operator.theirs, operator.ours) == (taken, ("experts",))


def test_what_is_held_wide_is_known_also_under_another_name():
    operators = as_named([Wide(Either((Same("a"), Rename("old", "a")))), Same("b")], {"old"})
    assert operators[0].theirs == ("old",)
    assert held_wide(operators) == {"a"}
