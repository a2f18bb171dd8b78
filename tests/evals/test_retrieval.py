"""Ranks are among all different documents; ties, NaN and a second right document are no gift."""

import math

import pytest
import torch

from ptw.data.pair import Pairs
from ptw.evals import retrieval

CPU = torch.device("cpu")


def turned(*degrees: float) -> torch.Tensor:
    angles = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_the_rank_is_among_all_different_documents() -> None:
    # two queries with a negative each; the second's negative has the text of the first's document
    pairs = Pairs(queries=(0, 3), texts=(100, 1, 2, 200, 3, 1))
    vectors = turned(0, 10, 5, 90, 60, 10) * torch.tensor([1.0, 9, 1, 2, 1, 9])[:, None]
    assert retrieval.ranks_of(vectors, pairs, CPU) == [2, 1]
    far = turned(0, 10, 5, 0, 60, 10)
    assert retrieval.ranks_of(far, pairs, CPU) == [2, 3]


def test_a_further_right_document_is_left_out_and_ties_come_first() -> None:
    pairs = Pairs(queries=(0, 2, 4), texts=(100, 1, 100, 2, 300, 3))
    assert retrieval.ranks_of(turned(0, 20, 0, 10, 0, 90), pairs, CPU) == [1, 1, 3]
    assert retrieval.ranks_of(torch.ones(6, 2), pairs, CPU) == [2, 2, 3]
    broken = torch.ones(6, 2)
    broken[5] = math.nan
    assert retrieval.ranks_of(broken, pairs, CPU)[2] == retrieval.MISSED


def test_a_query_that_is_a_document_too_does_not_find_itself() -> None:
    pairs = Pairs(queries=(0, 2, 4), texts=(100, 1, 200, 100, 300, 2))
    assert retrieval.ranks_of(turned(0, 20, 90, 0, 45, 60), pairs, CPU) == [1, 3, 1]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    pairs = Pairs(tuple(range(0, 60, 3)), tuple(at % 17 if at % 3 else 100 + at % 7 for at in range(60)))
    whole = retrieval.ranks_of(vectors, pairs, CPU)
    monkeypatch.setattr(retrieval, "AT_ONCE", 40)
    assert retrieval.ranks_of(vectors, pairs, CPU) == whole


def test_the_figures_are_of_each_width() -> None:
    pairs = Pairs(queries=(0, 2), texts=(100, 1, 200, 2))
    vectors = torch.tensor([[1.0, 0, 3], [1, 0, 3], [1, 1, -3], [2, 1, -3]])
    found = retrieval.figures(vectors, pairs, [3, 1], CPU)
    assert found["recall@1"] == 1
    assert found["width_1_recall@1"] == 0  # all are the same, which gains nothing
    assert found["width_1_mrr"] == 0.5
    assert retrieval.metrics_of([1, 4, 11]) == pytest.approx(
        {
            "recall@1": 1 / 3,
            "recall@10": 2 / 3,
            "mrr": (1 + 1 / 4 + 1 / 11) / 3,
            "ndcg@10": (1 + 1 / math.log2(5)) / 3,
        }
    )
