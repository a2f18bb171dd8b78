"""Ranking by hand, on examples small enough to check by eye."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.evals.ranking import (
    Case,
    cases,
    catalogue,
    metrics_of,
    model_ranks,
    popularity_ranks,
    ranks_of,
    split_of,
)
from ptw.nn.head import Head
from ptw.tokens.tokenizer import Tokenizer, open_tokenizer
from ptw.workspace.manifest import DatasetEntry, read

ITEMS = ("a", "b", "c", "d", "e")
SEQUENCES = (["a", "b", "c", "d"], ["b", "c", "a"], ["e", "a", "a", "b"], ["d"])
FIRST = 3  # the id of "a": three special tokens stand before it


@pytest.fixture
def views(tmp_path: Path) -> tuple[Path, DatasetEntry, Tokenizer]:
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"id": item}) + "\n" for item in ITEMS))
    (tmp_path / "views.jsonl").write_text("".join(json.dumps({"items": row}) + "\n" for row in SEQUENCES))
    (tmp_path / "workspace.toml").write_text(
        '[workspace]\nname = "w"\n[tokenizers.items]\nitems = "items.jsonl"\n'
        '[datasets.views]\nsource = "views.jsonl"\nformat = "event"\nleave_out = 2\n'
    )
    workspace = read(tmp_path)
    return tmp_path, workspace.datasets["views"], open_tokenizer(workspace, "items")


def ids(*items: str) -> list[int]:
    return [FIRST + ITEMS.index(item) for item in items]


class NextLetter(nn.Module):
    """Knows that b follows a, c follows b, and so on; nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.eye(8).roll(1, dims=1))

    def forward(self, ids_BT: Tensor, layout: Any) -> Tensor:
        return self.table[ids_BT]

    def head(self) -> Head:
        return Head(torch.eye(8), 8)


def test_the_test_is_the_last_item_and_the_validation_the_last_but_one(views: Any) -> None:
    root, dataset, tokenizer = views
    test = list(cases(root, dataset, tokenizer, "test", 16))
    assert [case.target for case in test] == ids("d", "a", "b")
    assert test[0].input.ids.tolist() == [tokenizer.bos_id, *ids("a", "b", "c")]
    validation = list(cases(root, dataset, tokenizer, "validation", 16))
    assert [case.target for case in validation] == ids("c", "c", "a")
    assert [case.seen for case in validation] == [tuple(ids("a", "b")), tuple(ids("b")), tuple(ids("e", "a"))]


def test_a_long_input_keeps_its_newest_items_and_its_beginning(views: Any) -> None:
    root, dataset, tokenizer = views
    case = next(cases(root, dataset, tokenizer, "test", 3))
    assert case.input.ids.tolist() == [tokenizer.bos_id, *ids("b", "c")]
    assert case.seen == tuple(ids("a", "b", "c"))  # an item that was cut off is still not recommended


@pytest.mark.parametrize("window", [4, 5, 16])
def test_a_model_is_ranked_the_same_however_it_is_packed(views: Any, window: int) -> None:
    root, dataset, tokenizer = views
    test = cases(root, dataset, tokenizer, "test", window)
    # of a b c comes d, first; of b c too: the target a stands behind d and, tied, behind e; of e a a comes b
    assert model_ranks(NextLetter(), test, tokenizer, window, torch.device("cpu")) == [1, 3, 1]


def test_shares_of_two_workers_are_the_whole(views: Any) -> None:
    root, dataset, tokenizer = views
    device = torch.device("cpu")
    whole = model_ranks(NextLetter(), cases(root, dataset, tokenizer, "test", 4), tokenizer, 4, device)
    shares = [
        model_ranks(NextLetter(), cases(root, dataset, tokenizer, "test", 4), tokenizer, 4, device, rank, 2)
        for rank in range(2)
    ]
    assert sorted(shares[0] + shares[1]) == sorted(whole)


def test_popularity_counts_the_training_part_only(views: Any) -> None:
    root, dataset, tokenizer = views
    # without the last two events: a b | b | e a; so a 2, b 2, e 1, and the others in catalogue order
    test = list(cases(root, dataset, tokenizer, "test", 16))
    # d: of those not seen (d, e) e is more popular; a: b, c are seen; b: a, e are seen
    assert popularity_ranks(test, root, dataset, tokenizer) == [2, 1, 1]


def test_ties_and_nan_gain_nothing(views: Any) -> None:
    items_V = catalogue(views[2])
    sample = Sample("x", np.array([1], np.int32), np.zeros(1, bool))
    case = Case(sample, tuple(ids("a")), ids("c")[0])
    assert ranks_of(torch.zeros(1, 8), [case], items_V)[0] >= 4
    assert metrics_of(ranks_of(torch.full((1, 8), float("nan")), [case], items_V))["recall@10"] == 0


def test_the_figures_are_the_papers() -> None:
    found = metrics_of([1, 3, 6, 11])
    assert found["recall@5"] == 0.5
    assert found["recall@10"] == 0.75
    assert found["ndcg@5"] == pytest.approx((1 + 1 / 2) / 4)
    assert found["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(7)) / 4)


def test_what_was_not_held_out_is_not_measured(views: Any) -> None:
    with pytest.raises(PtwError, match="leave_out = 2"):
        split_of(DatasetEntry("views", ("views.jsonl",), "event", leave_out=0))
    assert split_of(views[1]) == "validation"
