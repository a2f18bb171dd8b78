"""Documents of a packed batch are kept apart, whatever computes the attention."""

import pytest
import torch

from ptw.nn.attention import attend
from ptw.nn.cache import KVCache
from ptw.nn.layout import Layout

LENGTHS = [[5, 1, 9], [7, 4]]
WIDTH = 17
SINKS = torch.tensor([-1.0, 0.0, 1.5, 4.0], dtype=torch.float64)
BACKENDS = [
    "dense",
    "documents",
    pytest.param("flex", marks=pytest.mark.filterwarnings("ignore:flex_attention")),
]


def heads(seed: int = 0, value_width: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, WIDTH, 4, 8), (2, WIDTH, 2, 8), (2, WIDTH, 2, value_width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def by_hand(query, key, value, window, sinks=None, padding="right"):
    """Softmax over the document's earlier tokens, written out token by token."""
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=query.dtype)
    for row, lengths in enumerate(LENGTHS):
        start = WIDTH - sum(lengths) if padding == "left" else 0
        for length in lengths:
            for t in range(start, start + length):
                first = start if window is None else max(start, t - window + 1)
                for head in range(4):
                    scores = key[row, first : t + 1, head // 2] @ query[row, t, head] * 0.3
                    if sinks is not None:
                        scores = torch.cat([scores, sinks[head : head + 1]])
                    shares = scores.softmax(0)[: t + 1 - first]
                    out[row, t, head] = shares @ value[row, first : t + 1, head // 2]
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


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("value_width", [5, 8, 11])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_sinks_widths_and_the_side_of_padding_are_every_backends(backend, padding, value_width, window):
    query, key, value = heads(value_width=value_width)
    layout = Layout.of_documents(LENGTHS, WIDTH, backend=backend, padding=padding)
    real = layout.documents_BT >= 0
    attended = attend(query, key, value, layout, scale=0.3, window=window, sinks_N=SINKS)
    expected = by_hand(query, key, value, window, SINKS, padding)
    torch.testing.assert_close(attended[real], expected[real], rtol=1e-12, atol=1e-12)
    assert attended.isfinite().all()
    without = by_hand(query, key, value, window, None, padding)
    assert (expected - without)[real].abs().amax() > 0.1, "the sinks must matter here"


@pytest.mark.parametrize("backend", ["dense", "documents"])
@pytest.mark.parametrize("window", [None, 3])
def test_gradients_reach_sinks_as_they_do_by_hand(backend, window):
    layout = Layout.of_documents(LENGTHS, WIDTH, backend=backend)
    found = []
    for compute in (
        lambda q, k, v, s: attend(q, k, v, layout, scale=0.3, window=window, sinks_N=s),
        lambda q, k, v, s: by_hand(q, k, v, window, s),
    ):
        inputs = [x.requires_grad_() for x in (*heads(), SINKS.clone())]
        compute(*inputs)[layout.documents_BT >= 0].square().sum().backward()
        found.append([x.grad for x in inputs])
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", ["dense", "documents"])
def test_a_sink_is_rounded_no_more_than_other_scores(backend):
    """Error of bf16 against exact arithmetic: sinks of 9.7 and a scale that bf16 can't hold."""
    query, key, value = (x.bfloat16() for x in heads())
    layout = Layout.of_documents(LENGTHS, WIDTH, backend=backend)
    sinks = torch.full((4,), 9.7).bfloat16()
    exact = attend(*(x.double() for x in (query, key, value)), layout, scale=0.3, sinks_N=sinks.double())
    rounded = attend(query, key, value, layout, scale=0.3, sinks_N=sinks)
    assert rounded.dtype == torch.bfloat16
    real = layout.documents_BT >= 0
    assert ((rounded - exact)[real].norm() / exact[real].norm()) < 2**-8


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("window", [None, 3])
def test_steps_through_the_cache_give_what_whole_documents_give(padding, window):
    query, key, value = heads(value_width=5)
    whole = attend(
        query, key, value, Layout.of_documents([[17], [17]]), scale=0.3, window=window, sinks_N=SINKS
    )
    cache, done = KVCache(1), [0, 0]
    for counts in ([5, 2], [1, 6], [1, 1], [3, 0]):
        layout = cache.step(counts, padding=padding)
        real = layout.documents_BT >= 0
        pieces = [slice(start, start + count) for start, count in zip(done, counts, strict=True)]
        done = [piece.stop for piece in pieces]
        tensors = []
        for tensor in (query, key, value):
            filled = torch.full((2, max(counts), *tensor.shape[2:]), 7.0, dtype=torch.float64)
            filled[real] = torch.cat([tensor[row, piece] for row, piece in enumerate(pieces)])
            tensors.append(filled)
        attended = attend(*tensors, layout, cache.layers[0], scale=0.3, window=window, sinks_N=SINKS)
        expected = torch.cat([whole[row, piece] for row, piece in enumerate(pieces)])
        torch.testing.assert_close(attended[real], expected, rtol=1e-12, atol=1e-12)


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


def test_padding_on_the_left_moves_no_position():
    layout = Layout.of_documents([[2, 3], [1]], width=6, padding="left")
    assert layout.positions_BT.tolist() == [[0, 0, 1, 0, 1, 2], [0, 1, 2, 3, 4, 0]]
    assert layout.documents_BT.tolist() == [[-1, 0, 0, 1, 1, 1], [-1, -1, -1, -1, -1, 0]]
    assert layout.pieces == [1, 2, 3, 5, 1]
    steps = Layout.of_steps([4, 7], [3, 1], padding="left")
    assert steps.positions_BT.tolist() == [[4, 5, 6], [8, 9, 7]]
    assert steps.documents_BT.tolist() == [[0, 0, 0], [-1, -1, 0]]


def test_documents_longer_than_the_row_are_our_own_mistake():
    with pytest.raises(AssertionError, match="5 tokens in 4"):
        Layout.of_documents([[2, 3]], width=4)
