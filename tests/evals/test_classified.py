"""Figures of items, labels and numbers are scikit-learn's and SciPy's, in every draw of the bootstrap too."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, mean_squared_error

from ptw.cli import cli
from ptw.data.pack import PackedRow
from ptw.errors import PtwError
from ptw.evals.bootstrap import estimated, estimates
from ptw.evals.classes import Classes, found_at, ranks_of
from ptw.evals.classified import classified
from ptw.evals.judged import label_figures, number_figures, number_names
from ptw.nn.head import Head
from ptw.runs.open import open_named
from ptw.workspace.manifest import read
from tests.train.conftest import planned, trained
from tests.train.test_classify import with_data


def drawn(cases: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and what is true; the last label hardly ever is."""
    random = np.random.default_rng(seed)
    true = random.random((cases, labels)) < np.linspace(0.6, 0.05, labels)
    return np.round(random.normal(size=(cases, labels)) + true, 1), true


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_the_figures_of_labels_are_scikit_learns() -> None:
    scores, true = drawn(60, 5)
    said = scores > 0.5
    times = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=8)
    found = label_figures(scores, true, said)(np.concatenate([np.ones((1, 60)), times]))
    for row, weights in zip(found, [np.ones(60), *times], strict=True):
        there = [at for at in range(5) if (true[:, at] * weights).sum() > 0]
        wanted = [
            f1_score(true, said, average="micro", sample_weight=weights),
            f1_score(true, said, average="macro", sample_weight=weights, labels=there, zero_division=0),
            np.mean(
                [average_precision_score(true[:, at], scores[:, at], sample_weight=weights) for at in there]
            ),
        ]
        np.testing.assert_allclose(row, wanted, rtol=1e-9)


def test_the_figures_of_numbers_are_scikit_learns_and_scipys() -> None:
    random = np.random.default_rng(2)
    true = np.round(random.normal(size=(50, 2)), 1)
    said = np.round(true + random.normal(size=(50, 2)), 1)
    times = random.multinomial(50, np.full(50, 1 / 50), size=6)
    found = number_figures(said, true)(np.concatenate([np.ones((1, 50)), times])).reshape(7, 2, 3)
    assert number_names(["a", "b"])[3:] == ["mse b", "mae b", "spearman b"]
    for row, weights in zip(found, [np.ones(50, int), *times], strict=True):
        cases = np.repeat(np.arange(50), weights)
        for at in range(2):
            one, other = true[cases, at], said[cases, at]
            wanted = [
                mean_squared_error(one, other),
                mean_absolute_error(one, other),
                spearmanr(one, other)[0],
            ]
            np.testing.assert_allclose(row[at], wanted, rtol=1e-9)
    constant = number_figures(np.ones((50, 2)), true)(np.ones((1, 50)))
    assert np.isnan(constant[0, [2, 5]]).all()


def test_a_figure_that_is_a_mean_has_the_same_interval_either_way() -> None:
    values = np.random.default_rng(3).random((40, 1))
    told = estimated(lambda times_DC: times_DC @ values / times_DC.sum(-1, keepdims=True), 40)
    assert told[0] == pytest.approx(estimates(values)[0])
    few = estimated(lambda times_DC: times_DC @ values[:19] / 19, 19)
    assert np.isnan(few[0].low)


def test_ranks_are_among_all_and_of_equal_scores_the_last() -> None:
    head = Head(torch.tensor([[2.0], [1.0], [1.0], [torch.nan]]), 4)
    ranks = ranks_of(Head(head.weight_VD[:3], 3), torch.ones(3, 1), torch.tensor([0, 1, 2]))
    assert ranks.tolist() == [1, 3, 3]
    assert ranks_of(head, torch.ones(1, 1), torch.tensor([3])).tolist() == [5]
    found = found_at(np.array([1, 3, 11]), (1, 10))
    assert found["recall@1"].tolist() == [1, 0, 0]
    assert found["ndcg@10"].tolist() == pytest.approx([1, 0.5, 0])
    assert found["mrr"].tolist() == pytest.approx([1, 1 / 3, 1 / 11])


def test_targets_are_what_rows_say() -> None:
    def rows(*labels: object) -> list[PackedRow]:
        names = tuple(f"d:{n}" for n in range(len(labels)))
        return [PackedRow(np.zeros(4), np.zeros(4), (2,), names, labels=labels)]  # type: ignore[arg-type]

    cpu = torch.device("cpu")
    one = Classes(("a", "b"), "single_label_classification")
    assert one.targets(rows("b", "a"), cpu).tolist() == [1, 0]
    some = Classes(("a", "b"), "multi_label_classification")
    assert some.targets(rows(("b",), (), ("a", "b")), cpu).tolist() == [[0, 1], [0, 0], [1, 1]]
    numbers = Classes(("a", "b"), "regression")
    assert numbers.targets(rows({"b": 2.0, "a": 1.0}), cpu).tolist() == [[1, 2]]
    for classes, label in ((one, ("a",)), (some, "a"), (numbers, 1.0), (numbers, {"a": 1.0}), (one, "c")):
        with pytest.raises(PtwError, match="d:0: "):
            classes.targets(rows(label), cpu)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = with_data(tmp_path_factory.mktemp("classes") / "ws")
    for recipe in ("item", "tags", "number"):
        trained(planned(place, recipe, steps=25))
    return place


def ptw(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.chdir(root)
    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_items_stand_beside_popularity(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (root / "data" / "named.jsonl").read_text().splitlines()
    rows += [json.dumps({"text": f"snow {n} snow", "label": "t1"}) for n in range(8)]
    (root / "data" / "named.jsonl").write_text("\n".join(rows) + "\n")
    found = json.loads(ptw(root, monkeypatch, "eval", "item-001", "--at", "1,2,100", "--json"))
    assert found["recall@1"] > 0.9
    assert found["popularity_recall@1"] == pytest.approx(16 / 40)  # t1 is the most frequent
    assert found["popularity_recall@2"] == pytest.approx(24 / 40)
    assert found["rows"] == 40
    low, high = found["figures"]["popularity"]["recall@1"]["interval"]
    assert low < 0.4 < high
    text = ptw(root, monkeypatch, "eval", "item-001")
    assert text.startswith("named: one of 4 items for each of 40 rows; brackets: 95% of 1,000 draws")
    assert "popularity" in text


def test_labels_stand_beside_their_frequencies(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(ptw(root, monkeypatch, "eval", "tags-001", "--json"))
    assert found["mean_average_precision"] > found["frequencies_mean_average_precision"]
    assert found["frequencies_mean_average_precision"] == pytest.approx((15 / 30 + 10 / 30) / 2)
    assert [(one["label"], one["rows"]) for one in found["labels"]] == [
        ("even", 15),
        ("of three", 10),
        ("big", 0),
    ]
    assert found["labels"][2]["average_precision"] is None
    text = ptw(root, monkeypatch, "eval", "tags-001")
    assert "any of 3 labels for each of 30 rows" in text
    assert "of three" in text


def test_numbers_stand_beside_the_mean(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(ptw(root, monkeypatch, "eval", "number", "--json"))
    assert found["mse"] < found["mean_mse"] == pytest.approx(2.0)
    assert found["mean_spearman"] is None
    assert found["spearman"] > 0.5


def test_a_prompt_is_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ptw(root, monkeypatch, "recommend", "item-001", "--prompt", "snow 3", "--top", "2").splitlines()
    assert lines[0].startswith("t1\t")
    assert len(lines) == 2
    dry = ptw(
        root, monkeypatch, "recommend", "item-001", "--prompt", "snow 3", "--where", "kind=dry", "--json"
    )
    assert {one["item"] for one in json.loads(dry)} == {"t2", "t3"}
    assert sum(np.exp(one["log_probability"]) for one in json.loads(dry)) == pytest.approx(1)
    tags = json.loads(ptw(root, monkeypatch, "recommend", "tags-001", "--prompt", "6 sun", "--json"))
    assert {one["label"] for one in tags} == {"even", "of three", "big"}
    assert all(0 < one["probability"] < 1 for one in tags)
    number = json.loads(ptw(root, monkeypatch, "recommend", "number", "--prompt", "rain rain", "--json"))
    assert list(number[0]) == ["name", "number"]


REFUSED = {
    "words": (["generate", "item-001", "snow"], "gives items, labels or numbers, not words"),
    "a history": (["recommend", "item-001", "t1"], "was taught on texts, not on histories"),
    "a filter of labels": (
        ["recommend", "tags-001", "--prompt", "6", "--where", "kind=dry"],
        "--where is of items, and tags-001 gives none",
    ),
    "no such kind": (
        ["recommend", "item-001", "--prompt", "6", "--where", "kind=blue"],
        "kind = blue: no item has it",
    ),
    "a slice": (["eval", "item-001", "--slice", "id"], "--slice is of recommendations"),
    "other data": (["eval", "item-001", "--dataset", "chats"], "dataset chats is not labelled"),
    "other labels": (["eval", "item-001", "--dataset", "tagged"], "this head learns from `label`"),
    "too long": (["recommend", "item-001", "--prompt", "snow " * 90], "tokens, and item-001 reads 64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_does_not_have_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    arguments, said = REFUSED[name]
    monkeypatch.chdir(root)
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    assert said in str(done.exception) + done.output


def test_a_run_whose_training_data_is_gone_has_no_baseline(root: Path) -> None:
    text = (root / "workspace.toml").read_text()
    (root / "workspace.toml").write_text(
        text.replace("[datasets.tagged]", "[datasets.others]").replace('"tagged"', '"others"')
    )
    workspace = read(root)
    found = classified(workspace, open_named(workspace, "tags-001"), workspace.datasets["others"])
    assert list(found.figures) == ["tags-001"]
    (root / "workspace.toml").write_text(text)
