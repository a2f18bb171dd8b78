"""Counting words and pairs of items in chunks changes nothing, and takes numbers of four bytes."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from ptw.vocab import behaviour, text
from ptw.vocab.sparse import blocks
from ptw.vocab.text import learn_lsa


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"red shoe {number % 7} size {number % 5}" for number in range(50)] + ["", "?!"]
    whole_ND = learn_lsa(texts, 0)(texts)
    monkeypatch.setattr(text, "TEXTS_AT_ONCE", 3)
    monkeypatch.setattr("ptw.vocab.sparse.AT_ONCE", 4)
    assert torch.equal(learn_lsa(texts, 0)(texts), whole_ND)
    assert (whole_ND[50:] == 0).all()


def test_the_matrix_of_texts_has_numbers_of_four_bytes() -> None:
    counts_NB = text._counts(["a b a", "", "b c"], 2)
    assert counts_NB.data.dtype == np.float32
    assert counts_NB.indices.dtype == np.int32
    assert np.diff(counts_NB.indptr).tolist() == [4, 0, 3], "a, b, 'a b', 'b a'; b, c, 'b c'"
    assert sorted(counts_NB.data.tolist()) == [1, 1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("at_once", [1, 3, 10_000])
def test_blocks_are_all_entries_once(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptw.vocab.sparse.AT_ONCE", at_once)
    dense = np.random.default_rng(0).integers(0, 2, (9, 4)) * np.array([1, 1, 0, 1, 0, 0, 1, 1, 0])[:, None]
    matrix = csr_array(dense)
    found = [(row + among.start) for among, _, rows in blocks(matrix) for row in rows.tolist()]
    assert found == np.nonzero(dense)[0].tolist()
    assert [number for _, entries, _ in blocks(matrix) for number in range(matrix.nnz)[entries]] == list(
        range(matrix.nnz)
    )


@pytest.mark.parametrize("at_once", [1, 30, 10_000])
def test_pairs_are_counted_the_same_in_chunks(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "EVENTS_AT_ONCE", at_once)
    draw = np.random.default_rng(0)
    sequences = [draw.integers(0, 12, size).astype(np.int32) for size in (0, 1, 40, 2, 7, 0, 30)]
    wanted = np.zeros((12, 12), np.int64)
    for one in sequences:
        for at, item in enumerate(one):
            for beside in (*one[max(at - behaviour.NEAR, 0) : at], *one[at + 1 : at + behaviour.NEAR + 1]):
                wanted[item, beside] += item != beside
    found = behaviour._together(iter(sequences), 12)
    assert (found.toarray() == wanted).all()
    assert found.indices.dtype == np.int32
    assert behaviour._together(iter([]), 12).nnz == 0
