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
from ptw.evals import ranking
from ptw.evals.baselines import popularity, ranked_by
from ptw.evals.cases import Case, Catalogue, catalogue_of, count, drawn, evenly, split_of
from ptw.evals.cases import cases as all_cases
from ptw.evals.known import Known
from ptw.evals.ranker import model_ranked
from ptw.evals.ranking import Ranked, metrics_of, ranked_of
from ptw.nn.head import Head
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry, read

ITEMS = ("a", "b", "c", "d", "e")
SEQUENCES = (["a", "b", "c", "d"], ["b", "c", "a"], ["e", "a", "a", "b"], ["d"])
FIRST = 3  # the id of "a": three special tokens stand before it
CATALOGUE = Catalogue(ITEMS)


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
    return [FIRST + number for number in numbers(*items)]


def numbers(*items: str) -> list[int]:
    return [ITEMS.index(item) for item in items]


def cases(root: Path, dataset: DatasetEntry, tokenizer: Tokenizer, split: Any, window: int) -> list[Case]:
    return list(all_cases(root, dataset, tokenizer, CATALOGUE, split, window))


def model_ranks(
    model: nn.Module, test: list[Case], tokenizer: Tokenizer, window: int, *place: int
) -> list[int]:
    ranked = model_ranked(model, test, CATALOGUE, tokenizer, window, torch.device("cpu"), *place)
    return [one.rank for one in ranked]


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
    test = cases(root, dataset, tokenizer, "test", 16)
    assert [case.target for case in test] == numbers("d", "a", "b")
    assert test[0].input.ids.tolist() == [tokenizer.bos_id, *ids("a", "b", "c")]
    validation = cases(root, dataset, tokenizer, "validation", 16)
    assert [case.target for case in validation] == numbers("c", "c", "a")
    assert [case.seen for case in validation] == [(0, 1), (1,), (4, 0)]


def test_a_long_input_keeps_its_newest_items_and_its_beginning(views: Any) -> None:
    root, dataset, tokenizer = views
    case = cases(root, dataset, tokenizer, "test", 3)[0]
    assert case.input.ids.tolist() == [tokenizer.bos_id, *ids("b", "c")]
    assert case.seen == (0, 1, 2)  # an item that was cut off is still not recommended


@pytest.mark.parametrize("window", [4, 5, 16])
def test_a_model_is_ranked_the_same_however_it_is_packed(views: Any, window: int) -> None:
    root, dataset, tokenizer = views
    test = cases(root, dataset, tokenizer, "test", window)
    # of a b c comes d, first; of b c too: the target a stands behind d and, tied, behind e; of e a a comes b
    assert model_ranks(NextLetter(), test, tokenizer, window) == [1, 3, 1]


def test_shares_of_two_workers_are_the_whole(views: Any) -> None:
    root, dataset, tokenizer = views
    whole = model_ranks(NextLetter(), cases(root, dataset, tokenizer, "test", 4), tokenizer, 4)
    shares = [
        model_ranks(NextLetter(), cases(root, dataset, tokenizer, "test", 4), tokenizer, 4, rank, 2)
        for rank in range(2)
    ]
    assert sorted(shares[0] + shares[1]) == sorted(whole)


def test_no_more_scores_are_held_than_fit(views: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, dataset, tokenizer = views
    held = []

    def logits(head: Head, hidden: Tensor) -> Tensor:
        held.append(len(hidden))
        return hidden @ head.weight_VD.T

    test = cases(root, dataset, tokenizer, "test", 16) * 5
    whole = model_ranks(NextLetter(), test, tokenizer, 16)
    monkeypatch.setattr(Head, "logits", logits)
    monkeypatch.setattr(ranking, "CHUNK_ELEMENTS", 2 * len(ITEMS))
    monkeypatch.setattr(ranking, "TOKENS_AT_ONCE", 20)
    assert model_ranks(NextLetter(), test, tokenizer, 16) == whole
    assert max(held) == 2
    assert sum(held) == len(test)


def test_a_long_window_has_few_rows_in_a_pass(views: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, dataset, tokenizer = views
    read = []

    class Watched(NextLetter):
        def forward(self, ids_BT: Tensor, layout: Any) -> Tensor:
            read.append(ids_BT.numel())
            return super().forward(ids_BT, layout)

    monkeypatch.setattr(ranking, "TOKENS_AT_ONCE", 8)
    model_ranks(Watched(), cases(root, dataset, tokenizer, "test", 4), tokenizer, 4)
    assert max(read) == 8


def test_only_the_sequences_that_are_chosen_are_made(views: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root, dataset, tokenizer = views
    made = []

    def counted(self: Tokenizer, items: list[str], *rest: Any) -> Any:
        made.append(items)
        return events(self, items, *rest)

    events = Tokenizer.events
    monkeypatch.setattr(Tokenizer, "events", counted)
    of = count(root, dataset, "test")
    chosen = evenly(of, 2)
    found = list(all_cases(root, dataset, tokenizer, CATALOGUE, "test", 16, chosen=chosen))
    assert (of, len(made), list(chosen)) == (3, 2, [0, 2])
    assert [case.target for case in found] == numbers("d", "b")
    assert list(evenly(3, 7)) == [0, 1, 2]
    assert drawn(3, 7, 0) == {0, 1, 2}
    assert drawn(1000, 10, 0) == drawn(1000, 10, 0) != drawn(1000, 10, 1)


def test_popularity_counts_the_training_part_only(views: Any) -> None:
    root, dataset, tokenizer = views
    # without the last two events: a b | b | e a; so a 2, b 2, e 1, and the others in catalogue order
    test = cases(root, dataset, tokenizer, "test", 16)
    # d: of those not seen (d, e) e is more popular; a: b, c are seen; b: a, e are seen
    ranked = ranked_by(popularity, test, Known.read(root, dataset, CATALOGUE), top=2)
    assert ranked == [Ranked(2, (4, 3)), Ranked(1, (0, 4)), Ranked(1, (1, 2))]


def test_a_catalogue_is_every_token_that_is_no_special_one(views: Any) -> None:
    assert catalogue_of(views[2]) == CATALOGUE
    (views[0] / "views.jsonl").write_text('{"items": ["a", "z"]}\n')
    with pytest.raises(PtwError, match=r"views.jsonl:1: item 'z' is not in"):
        cases(*views, "test", 16)


def test_ties_and_nan_gain_nothing() -> None:
    case = Case(Sample("x", np.array([1], np.int32), np.zeros(1, bool)), (0,), 2)
    assert ranked_of(torch.zeros(1, 5), [case])[0].rank == 4
    nothing = ranked_of(torch.full((1, 5), float("nan")), [case], top=3)
    assert nothing[0].top == ()
    assert metrics_of([nothing[0].rank])["recall@10"] == 0


class Narrow(NextLetter):
    """The same knowledge in bf16, in logits of 256.5 and 256, which are one number there."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.cat([self.table / 2, torch.full((8, 1), 256)], -1).bfloat16())

    def head(self) -> Head:
        return Head(torch.cat([torch.eye(8), torch.ones(8, 1)], -1).bfloat16(), 8)


def test_bf16_makes_no_ties(views: Any) -> None:
    root, dataset, tokenizer = views
    test = cases(root, dataset, tokenizer, "test", 16)
    assert model_ranks(Narrow(), test, tokenizer, 16) == model_ranks(NextLetter(), test, tokenizer, 16)


def test_a_list_holds_the_best_that_were_not_in_the_input() -> None:
    case = Case(Sample("x", np.array([1], np.int32), np.zeros(1, bool)), (0, 3), 2)
    scores = torch.tensor([[9.0, 1, 3, 8, 2]])
    assert ranked_of(scores, [case], top=2) == [Ranked(1, (2, 4))]
    assert ranked_of(scores, [case], top=9) == [Ranked(1, (2, 4, 1))]  # shorter than was asked for
    assert scores[0, 0] == 9  # the caller's own are as they were


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
