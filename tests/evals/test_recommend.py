"""Figures of recommendations are true: by hand, by brute force, by simulation; and leaks are seen."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ptw.cli.asking import evaluate
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.evals import neighbours, page, show
from ptw.evals.attributes import Items, attribute_of
from ptw.evals.baselines import item_knn, ranked_by
from ptw.evals.bootstrap import estimates
from ptw.evals.cases import Case, Catalogue
from ptw.evals.known import Known, incidence
from ptw.evals.lists import coverage, described, varied
from ptw.evals.ranking import MISSED, Ranked
from ptw.evals.recommend import Asked, Recommended, accuracy, demand_seeds, recommend, scored
from ptw.evals.slices import sliced
from ptw.runs.open import open_named
from ptw.workspace.manifest import DatasetEntry, read
from tests.train.conftest import make_workspace, planned, trained

GENRES = Items("items.jsonl", {"genres": [("x",), ("x",), ("x", "y"), ("y",), ()]})


def case(*seen: int, target: int = 0, user: str | None = None, **about: object) -> Case:
    return Case(Sample("x", np.array([1], np.int32), np.zeros(1, bool)), seen, target, user, about)


def known_of(*rows: list[int], items: int = 5, users: tuple[str | None, ...] = ()) -> Known:
    counts = np.bincount([item for row in rows for item in row], minlength=items)
    places = [np.unique(row).astype(np.int64) for row in rows]
    return Known(counts, incidence(places, items), users or (None,) * len(rows))


def test_accuracy_is_the_papers() -> None:
    found = accuracy(np.array([1, 3, 6, MISSED]), (2, 5))
    assert found["recall@2"].tolist() == [1, 0, 0, 0]
    assert found["recall@5"].tolist() == [1, 1, 0, 0]
    assert found["ndcg@5"].tolist() == pytest.approx([1, 1 / 2, 0, 0])
    assert found["mrr"].tolist() == pytest.approx([1, 1 / 3, 1 / 6, 0])


def drawn_rows(rng: np.random.Generator, rows: int, items: int) -> list[list[int]]:
    return [list(rng.choice(items, size=rng.integers(1, 8), replace=False)) for _ in range(rows)]


def looped(rows: list[list[int]], items: int, seen: set[int]) -> dict[int, float]:
    """Of each item that is not seen the summed cosine, by a loop."""
    has = np.array([[item in row for item in range(items)] for row in rows], float)
    norms = np.maximum(1e-9, np.sqrt(has.sum(0)))
    return {
        item: sum(has[:, item] @ has[:, other] / (norms[item] * norms[other]) for other in seen)
        for item in set(range(items)) - seen
    }


def test_item_knn_is_what_a_loop_makes_of_it() -> None:
    rng = np.random.default_rng(0)
    rows = drawn_rows(rng, 60, 30)
    known = known_of(*rows, items=30)
    inputs = [case(*rng.integers(0, 30, size=4), target=int(rng.integers(0, 30))) for _ in range(40)]
    ranked = ranked_by(item_knn, inputs, known, top=30)
    scores_NI = item_knn(inputs, known).toarray()
    for one, scores, found in zip(inputs, scores_NI, ranked, strict=True):
        sums = looped(rows, 30, {int(item) for item in one.seen})
        assert all(scores[item] == pytest.approx(value, abs=1e-12) for item, value in sums.items())
        order = sorted(sums, key=lambda item: (-round(sums[item], 9), known.places[item]))
        assert found.top == tuple(order)
        assert found.rank == (order.index(one.target) + 1 if one.target in order else MISSED)
        (few,) = ranked_by(item_knn, [one], known, top=3)
        assert few == Ranked(found.rank, found.top[:3])


def test_item_knn_keeps_the_nearest_of_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows = drawn_rows(rng, 80, 30)
    whole = known_of(*rows, items=30).neighbours.toarray()
    assert whole.diagonal().sum() == 0
    monkeypatch.setattr(neighbours, "NEAREST", 5)
    monkeypatch.setattr(neighbours, "KEPT", 0)
    monkeypatch.setattr(neighbours, "AT_ONCE", 40)
    known = known_of(*rows, items=30)
    for item, kept in enumerate(known.neighbours.toarray()):
        nearest = sorted(range(30), key=lambda one: (-round(whole[item, one], 9), known.places[one]))[:5]
        assert set(np.flatnonzero(kept)) == {one for one in nearest if whole[item, one] > 0}
        assert kept[nearest] == pytest.approx(whole[item, nearest])


def test_a_small_catalogue_keeps_all_neighbours() -> None:
    assert [neighbours.most(items) for items in (30, 4_096, 50_000, 1_000_000)] == [30, 4_096, 335, 200]


def test_a_row_of_very_many_items_costs_no_more_than_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "LONGEST", 4)
    known = known_of([0, 1, 2, 3], list(range(10)), [], [5], items=10)
    kept = neighbours.shortened(known.rows_RI)
    assert np.diff(kept.indptr).tolist() == [4, 4, 0, 1]
    assert kept.toarray()[0].tolist() == known.rows_RI.toarray()[0].tolist()


def test_stretches_are_as_long_as_they_may_be() -> None:
    found = list(neighbours.spans(np.array([3, 4, 9, 1, 1, 0]), 7))
    assert [(part.start, part.stop) for part in found] == [(0, 2), (2, 3), (3, 6)]
    assert list(neighbours.spans(np.zeros(0), 7)) == []


def test_some_of_the_sequences_are_drawn_and_told(root: Path) -> None:
    workspace = read(root)

    def asked(cases: int, seed: int = 0) -> Recommended:
        runs = [open_named(workspace, name) for name in ("next-001", "next-002")]
        return recommend(
            workspace, runs, workspace.datasets["views"], Asked((3,), cases=cases, baselines=False, seed=seed)
        )

    some, all_of_them = asked(25), asked(1000)
    assert [scorer.name for scorer in some.scorers] == ["next-001", "next-002"]
    assert (len(some.targets_N), some.drawn_from) == (25, 40)
    assert "25 sequences, drawn at random from 40, among 30 items" in show.heading(some)
    assert any("coverage is that of the lists of 25" in note for note in show.notes(some))
    assert (len(all_of_them.targets_N), all_of_them.drawn_from) == (40, None)
    assert (asked(25).scorers[0].ranks_N == some.scorers[0].ranks_N).all()
    assert asked(25, seed=1).targets_N.tolist() != some.targets_N.tolist()
    assert show.as_json(some)["drawn_from"] == 40


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        drawn = (rng.random((300, 1)) < 0.2).astype(float)
        (found,) = estimates(drawn, 400, seed)
        held += found.low <= 0.2 <= found.high
    assert 180 <= held <= 199  # 95% of 200 is 190


def test_no_interval_is_told_where_the_cases_cannot_tell() -> None:
    alike, few = np.zeros((500, 1)), np.arange(5.0)[:, None]
    assert math.isnan(estimates(alike)[0].low)
    assert estimates(few)[0].value == 2
    assert math.isnan(estimates(few)[0].low)
    partly = np.r_[np.arange(100.0), np.full(100, np.nan)][:, None]  # half of them it does not apply to
    assert estimates(partly)[0].value == pytest.approx(49.5)
    assert estimates(partly)[0].low < 49.5 < estimates(partly)[0].high


def test_lists_are_described_as_by_hand() -> None:
    known = known_of([0, 1], [0, 1], [0, 2], [0])
    tops = np.array([[0, 3], [2, -1], [-1, -1]])
    found = described(tops, known, (1, 2))
    bits = [-math.log2((count + 1) / 12) for count in (4, 2, 1, 0, 0)]
    assert found["novelty@1"].tolist()[:2] == pytest.approx([bits[0], bits[2]])
    assert found["novelty@2"].tolist()[:2] == pytest.approx([(bits[0] + bits[3]) / 2, bits[2]])
    assert math.isnan(found["novelty@2"][2])  # who is given nothing has no novelty
    assert found["popular_10%@2"].tolist()[:2] == [0.5, 0]
    assert coverage(tops, 5, (1, 2)) == {"coverage@1": 0.4, "coverage@2": 0.6}


def test_diversity_and_miscalibration_are_by_the_attribute() -> None:
    attribute = attribute_of(GENRES, "genres")
    assert attribute is not None
    tops = np.array([[0, 1, 2], [3, 0, 4], [4, -1, -1]])
    found = varied(tops, [case(0, 1), case(0, 0), case(3)], attribute, (2, 3))
    assert found["diversity@2"].tolist()[:2] == [0, 1]
    assert found["diversity@3"].tolist()[:2] == pytest.approx([(0 + 1 / 2 + 1 / 2) / 3, 1])
    assert found["miscalibration@2"][0] == pytest.approx(0, abs=1e-9)
    mixed = 0.5 * math.log2(1 / 0.75) + 0.5 * (0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25))
    assert found["miscalibration@2"][1] == pytest.approx(mixed)
    assert math.isnan(found["miscalibration@3"][2])
    assert attribute_of(GENRES, "none") is None
    with pytest.raises(PtwError, match="did you mean 'genres'"):
        attribute_of(GENRES, "genre")


def test_slices_are_by_popularity_length_and_keys() -> None:
    known = known_of(*[[0]] * 10, *[[1]] * 10, *[[2]] * 6, *[[3]] * 4)
    some = [case(1, target=0, plan="a"), case(2, 2, 2, target=2, plan="b"), case(1, target=4, plan="a")]
    found = {
        (one.key, one.value): one.places.tolist()
        for one in sliced(some, known, GENRES, ["plan", "item:genres"])
    }
    assert found == {
        ("popularity", "head"): [0],
        ("popularity", "tail"): [1, 2],
        ("history", "1"): [0, 2],
        ("history", "2-3"): [1],
        ("plan", "a"): [0, 2],
        ("plan", "b"): [1],
        ("item:genres", "x"): [0, 1],
        ("item:genres", "y"): [1],
        ("item:genres", "(none)"): [2],
    }
    ages = [case(1, age=age) for age in range(100)]
    quarters = [one for one in sliced(ages, known, None, ["age"]) if one.key == "age"]
    assert [len(one.places) for one in quarters] == [25, 25, 25, 25]
    with pytest.raises(PtwError, match="51 different values"):
        sliced([case(1, name=f"n{n}") for n in range(51)], known, None, ["name"])
    with pytest.raises(PtwError, match="no row of the dataset has such a key"):
        sliced(some, known, None, ["country"])


def test_the_training_part_knows_nothing_of_the_test(tmp_path: Path) -> None:
    entry = DatasetEntry("views", ("views.jsonl",), "event", leave_out=2)

    def known(last: list[str]) -> Known:
        (tmp_path / "views.jsonl").write_text(json.dumps({"items": ["a", "b", *last]}) + "\n")
        return Known.read(tmp_path, entry, Catalogue(("a", "b", "c", "d")))

    assert known(["c", "d"]).counts_I.tolist() == known(["d", "c"]).counts_I.tolist() == [1, 1, 0, 0]
    assert known(["d", "d"]).rows_RI.toarray().tolist() == [[1, 1, 0, 0]]


def test_a_target_that_another_row_of_the_user_gives_away_is_counted() -> None:
    known = known_of([0, 1], [0, 1, 2], [2], users=("u", "u", "v"))
    assert known.leaked([case(0, 1, target=2, user="u")]) == 1
    assert known.leaked([case(0, 1, target=3, user="u"), case(0, target=2, user="v")]) == 0


def made(asked: Asked, **ranked: list[Ranked]) -> Recommended:
    count = len(next(iter(ranked.values())))
    some, known = [case(0, target=1) for _ in range(count)], known_of([0, 1], [0, 2])
    scorers = tuple(scored(name, one, some, known, None, asked) for name, one in ranked.items())
    targets = np.ones(count, int)
    return Recommended(
        "views", asked, known, targets, 0, 0, None, ("a",), scorers, tuple(sliced(some, known, None))
    )


def test_the_difference_of_a_run_to_itself_is_nothing_and_a_paired_one_is_sure() -> None:
    rng = np.random.default_rng(2)
    ranks = rng.integers(1, 20, size=400)
    one = [Ranked(int(rank), (1,)) for rank in ranks]
    better = [Ranked(max(1, int(rank) - int(at % 4 == 0)), (1,)) for at, rank in enumerate(ranks)]
    found = made(Asked(), a=one, b=one, c=better)
    assert all(one.value == 0 and not one.excludes_zero for one in found.differences["b"].values())
    assert found.differences["c"]["mrr"].excludes_zero  # pairs tell what the two intervals alone do not
    assert found.figures["c"]["mrr"].low < found.figures["a"]["mrr"].value


SETTINGS = {"steps": 2, "rows": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_workspace(tmp_path_factory.mktemp("recommend") / "ws")
    for seed in (0, 1):
        trained(planned(root, "next", **SETTINGS, seed=seed))
    return root


def test_runs_are_told_whole_to_people_and_programs(root: Path) -> None:
    workspace = read(root)
    names = ("next-001", "next-002")
    asked = Asked((3, 10))
    found = recommend(
        workspace, demand_seeds(open_named(workspace, n) for n in names), workspace.datasets["views"], asked
    )
    assert [scorer.name for scorer in found.scorers] == [*names, "popularity", "knn"]
    text = show.as_text(found, seeds=True)
    assert "deviation" in text
    assert "popularity tail" in text
    told = json.loads(json.dumps(show.as_json(found, seeds=True), allow_nan=False))
    values = [told["figures"][name]["recall@10"]["value"] for name in names]
    assert told["seeds"]["recall@10"]["mean"] == pytest.approx(sum(values) / 2)
    assert told["seeds"]["recall@10"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert sum(one["sequences"] for one in told["slices"] if one["key"] == "popularity") == told["sequences"]
    html = page.as_html(found, seeds=True)
    assert "://" not in html  # it fetches nothing
    assert html.count('class="chart"') == 2
    alone = show.as_json(
        recommend(workspace, [open_named(workspace, "next-001")], workspace.datasets["views"])
    )
    assert {"recall@10", "popularity_ndcg@5", "knn_mrr", "sequences"} <= set(alone)


def test_what_would_mislead_is_refused(root: Path) -> None:
    workspace = read(root)
    views, first = workspace.datasets["views"], open_named(workspace, "next-001")
    with pytest.raises(PtwError, match="have the same seed"):
        list(demand_seeds([first, first]))
    with pytest.raises(PtwError, match="a list has at most 30 items"):
        recommend(workspace, [first], views, Asked((50,)))
    assert first.plan is not None
    first.plan["datasets"]["views"]["leave_out"] = 0
    with pytest.raises(PtwError, match=r"learnt the last items .* train it again with leave_out = 2"):
        recommend(workspace, [first], views)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "b"], "several runs: add --compare"),
        (["a", "a", "--compare"], "two different runs"),
        (["a", "b", "--compare", "--seeds"], "exclude each other"),
    ],
)
def test_runs_are_asked_for_as_they_can_be_told(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(evaluate, arguments)
    assert done.exit_code == 2
    assert words in done.output
