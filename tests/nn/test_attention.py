"""Documents of a packed batch are kept apart, whatever computes the attention."""

import pytest
import torch

from ptw.nn.attention import attend
from ptw.nn.layout import Layout

LENGTHS = [[5, 1, 9], [7, 4]]
WIDTH = 17
BACKENDS = [
    "dense",
    "documents",
    pytest.param("flex", marks=pytest.mark.filterwarnings("ignore:flex_attention")),
]


def heads(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, WIDTH, 4, 8), (2, WIDTH, 2, 8), (2, WIDTH, 2, 8)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def by_hand(query, key, value, window):
    """Softmax over the document's earlier tokens, written out token by token."""
    out = torch.zeros(query.shape, dtype=query.dtype)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            for t in range(start, start + length):
                first = start if window is None else max(start, t - window + 1)
                for head in range(4):
                    scores = key[row, first : t + 1, head // 2] @ query[row, t, head] * 0.3
                    out[row, t, head] = scores.softmax(0) @ value[row, first : t + 1, head // 2]
            start += length
    return out


@pytest.mark.parametrize("window", [None, 1, 3, 20])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_sees_its_own_document_up_to_itself(backend, window):
    query, key, value = heads()
    layout = Layout.of_documents(LENGTHS, WIDTH, backend=backend)
    attended = attend(query, key, value, layout, scale=0.3, window=window)
    real = layout.documents_BT >= 0
    torch.testing.assert_close(
        attended[real], by_hand(query, key, value, window)[real], rtol=1e-12, atol=1e-12
    )
    assert attended.isfinite().all(), "padding must stay finite, or its gradient spoils the rest"


@pytest.mark.parametrize("backend", ["dense", "documents"])
def test_gradients_do_not_cross_documents(backend):
    query, key, value = (x.requires_grad_() for x in heads())
    attended = attend(query, key, value, Layout.of_documents(LENGTHS, WIDTH, backend=backend), scale=0.3)
    attended[0, 5].sum().backward()  # the document of one token
    assert key.grad[0, :5].abs().max() == 0
    assert value.grad[0, 6:].abs().max() == 0
    assert value.grad[1].abs().max() == 0


def test_changing_a_document_leaves_the_others_bit_unchanged():
    query, key, value = heads()
    layout = Layout.of_documents(LENGTHS, WIDTH)
    before = attend(query, key, value, layout, scale=0.3)
    for tensor in (query, key, value):
        tensor[0, 6:15] += 1.0
    after = attend(query, key, value, layout, scale=0.3)
    assert torch.equal(before[0, :6], after[0, :6])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0, 6:15], after[0, 6:15])


def test_a_layout_counts_from_zero_in_each_document():
    layout = Layout.of_documents([[2, 3], [1]], width=6)
    assert layout.positions_BT.tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4]]
    assert layout.documents_BT.tolist() == [[0, 0, 1, 1, 1, -1], [0, -1, -1, -1, -1, -1]]
    assert layout.lengths == ((2, 3), (1,))


def test_documents_longer_than_the_row_are_our_own_mistake():
    with pytest.raises(AssertionError, match="5 tokens in 4"):
        Layout.of_documents([[2, 3]], width=4)
