"""Runs over semantic IDs: beams give items of the catalogue alone, as filters and what was seen allow."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ptw.cli import cli
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.evals import generated, page, show
from ptw.evals.cases import Case, Catalogue, cases, catalogue_of
from ptw.evals.filters import Filters
from ptw.evals.generated import Generator
from ptw.evals.next_items import Request, next_items
from ptw.evals.ranker import model_ranked
from ptw.evals.ranking import MISSED
from ptw.evals.recommend import Asked, recommend
from ptw.nn import beams
from ptw.nn.head import Head
from ptw.runs import record
from ptw.runs.export import export_run
from ptw.runs.open import Opened, open_named
from ptw.tokens.tokenizer import load_tokenizer
from ptw.train.plan import demand_sense, resolve
from ptw.workspace.manifest import read
from tests.evals.conftest import COLOUR, declare_version
from tests.train.conftest import measured_of, planned, trained, with_codes


@pytest.fixture(scope="module")
def root(over_codes: Path) -> Path:
    return over_codes


@pytest.fixture
def opened(root: Path) -> Opened:
    return open_named(read(root), "generate")


def test_what_is_measured_while_training(root: Path) -> None:
    (folder,) = (root / "runs").glob("generate-*")
    measured = measured_of(folder)
    assert [line["step"] for line in measured] == [0, 15, 30]
    assert set(measured[0]) >= {"validation_recall@10", "validation_ndcg@10"}
    assert (folder / record.MODEL / "semantic_ids" / "titles" / "items.parquet").is_file()


def ranked(opened: Opened, root: Path, place: tuple[int, int] = (0, 1), beams: int = 30) -> list[Any]:
    assert opened.tokenizer is not None
    entry, catalogue = read(root).datasets["views"], catalogue_of(opened.tokenizer)
    sequences = list(cases(root, entry, opened.tokenizer, catalogue, "test", 64))
    device = torch.device("cpu")
    found = model_ranked(
        opened.loaded.module, sequences, catalogue, opened.tokenizer, 64, device, *place, top=30, beams=beams
    )
    return list(zip(sequences, found, strict=True)) if place[1] == 1 else found


def test_as_many_sequences_as_are_ranked(root: Path) -> None:
    with pytest.raises(PtwError, match="eval_sequences = 0: it must be 1 or more"):
        demand_sense(resolve(read(root), "generate", {"eval_sequences": "0"}))


def test_every_beam_is_an_item_that_was_not_seen(opened: Opened, root: Path) -> None:
    for case, one in ranked(opened, root):
        unseen = set(range(30)) - set(case.seen)
        assert set(one.top) == unseen, "as many beams as items find all that are allowed, and no other"
        place = one.top.index(case.target) + 1 if case.target in unseen else MISSED
        assert one.rank == place


def test_few_beams_find_a_part(opened: Opened, root: Path) -> None:
    all_of_them, few = ranked(opened, root), ranked(opened, root, beams=5)
    for (case, one), (_, part) in zip(all_of_them, few, strict=True):
        assert len(part.top) <= 5
        assert set(part.top) <= set(one.top)
        assert part.rank == MISSED or part.top[part.rank - 1] == case.target


@pytest.mark.parametrize("value", [0.0, torch.nan])
def test_a_model_that_tells_no_two_items_apart_finds_nothing(
    opened: Opened, root: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the catalogue's first items in its beams, and the target among them gains nothing."""
    monkeypatch.setattr(Head, "logits", lambda head, hidden: hidden[..., :1].expand(-1, 100) * 0 + value)
    for _, one in ranked(opened, root, beams=15):
        assert one.rank == MISSED if np.isnan(value) else one.rank in (15, MISSED)
        assert len(one.top) == (0 if np.isnan(value) else 15)


def test_workers_share_the_sequences(opened: Opened, root: Path) -> None:
    alone = sorted(one.rank for _, one in ranked(opened, root))
    shares = [ranked(opened, root, (rank, 3)) for rank in range(3)]
    assert sorted(one.rank for share in shares for one in share) == alone


def test_few_long_inputs_are_asked_together(
    opened: Opened, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What beams hold is bounded by tokens, and by the cases where these are short; one always goes."""
    whole, asked = [one for _, one in ranked(opened, root)], list[int]()

    def searched(module: Any, prompts: Any, width: int, steps: int, *rest: Any) -> Any:
        asked.append(len(prompts) * width * (max(map(len, prompts)) + steps))
        return beams.search(module, prompts, width, steps, *rest)

    monkeypatch.setattr(generated, "search", searched)
    for fits, worlds in ((6_000, 1), (1, 1), (6_000, 2)):
        monkeypatch.setattr(generated, "TOKENS_AT_ONCE", fits)
        asked.clear()
        shares = [ranked(opened, root, (rank, worlds)) for rank in range(worlds)]
        if worlds == 1:
            assert [one for _, one in shares[0]] == whole
        else:
            assert sorted(one.rank for share in shares for one in share) == sorted(one.rank for one in whole)
        assert len(asked) == len(whole) if fits == 1 else max(asked) <= fits


def test_an_input_is_cut_between_items(opened: Opened, root: Path) -> None:
    assert opened.tokenizer is not None
    entry = read(root).datasets["views"]
    for case in cases(root, entry, opened.tokenizer, catalogue_of(opened.tokenizer), "test", 8):
        ids = case.input.ids.tolist()
        assert len(ids) <= 7
        assert ids[0] == opened.tokenizer.bos_id
        assert len(ids) % 2 == 1
        assert ids[1] in opened.tokenizer.code_ids("titles")[0]


def test_a_catalogue_in_another_order_gives_the_same_items(opened: Opened, root: Path) -> None:
    assert opened.tokenizer is not None
    names = catalogue_of(opened.tokenizer).names
    turned = Catalogue(names[::-1])
    ids = np.array([opened.tokenizer.bos_id, *opened.tokenizer.item_ids(["item3"])], np.int32)
    tops = []
    for catalogue in (Catalogue(names), turned):
        number = catalogue.get("item3")
        assert number is not None
        case = Case(Sample("x", ids, np.zeros(3, bool)), (number,), 0)
        arguments = (opened.loaded.module, [case], catalogue, opened.tokenizer, 64, torch.device("cpu"))
        (one,) = model_ranked(*arguments, top=5)
        tops.append([catalogue.names[at] for at in one.top])
    assert tops[0] == tops[1]
    assert "item3" not in tops[0]


def where(**colours: str) -> Filters:
    return Filters(where={key: value.split() for key, value in colours.items()})


def test_files_of_items_are_rules(root: Path, opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "available.txt").write_text("item1\nitem2\n\nitem4 \nnobody's\n")
    (tmp_path / "withdrawn.txt").write_bytes("item2\n".encode("utf-8-sig"))  # as a spreadsheet saves it
    filters = Filters(only=(tmp_path / "available.txt",), never=(tmp_path / "withdrawn.txt",))
    found = next_items(read(root), opened, Request(("item0",), filters=filters, top=30), why=True)
    assert {one.item for one in found.recommended} == {"item1", "item4"}
    reasons = {one.item: one.reasons for one in found.kept_out}
    assert reasons["item2"] == ("in withdrawn.txt",)
    assert reasons["item0"] == ("in the history", "not in available.txt")
    (tmp_path / "withdrawn.txt").write_text("film9\n")
    with pytest.raises(PtwError, match=r"withdrawn.txt: no line is the id of an item .*'film9' among them"):
        next_items(read(root), opened, Request(("item0",), filters=filters))
    with pytest.raises(PtwError, match=r"gone.txt: can't be read"):
        next_items(read(root), opened, Request(("item0",), filters=Filters(only=(tmp_path / "gone.txt",))))


def without(**colours: str) -> Filters:
    return Filters(without={key: value.split() for key, value in colours.items()})


def test_filters_hold_for_every_item(root: Path, opened: Opened) -> None:
    workspace = read(root)
    request = Request(("item0", "item3"), filters=where(colour="red"), top=30)
    red = next_items(workspace, opened, request).recommended
    assert {one.item for one in red} == {i for i, c in COLOUR.items() if c == "red"} - {"item0", "item3"}
    assert [one.log_probability for one in red] == sorted((o.log_probability for o in red), reverse=True)
    assert 0 < sum(np.exp(one.log_probability) for one in red) < 1  # the others have the rest
    asked = Request(("item0",), filters=replace(where(colour="red"), again=True), top=30)
    assert "item0" in {one.item for one in next_items(workspace, opened, asked).recommended}
    asked = Request(("item0",), filters=without(colour="red blue"), top=30)
    rest = next_items(workspace, opened, asked).recommended
    assert {COLOUR[one.item] for one in rest} == {"green"}
    assert {one.title for one in rest} <= {f"Film {n}" for n in range(30)}


@pytest.mark.parametrize("recipe", ["generate", "next"])
def test_what_a_filter_took_away_is_told_with_its_reasons(root: Path, recipe: str) -> None:
    if recipe == "next":
        trained(planned(root, "next", steps=2))
    workspace, opened = read(root), open_named(read(root), recipe)
    freely = next_items(workspace, opened, Request(("item0",), filters=Filters(again=True), top=8), why=True)
    assert freely.kept_out == ()
    best = [one.item for one in freely.recommended]
    filters = Filters(where={"colour": ["red", "blue"]}, without={"colour": ["blue"]})
    found = next_items(workspace, opened, Request(("item0",), filters=filters, top=8), why=True)
    kept = {one.item: one for one in found.kept_out}
    assert list(kept) == [item for item in best if COLOUR[item] != "red" or item == "item0"]
    for item, one in kept.items():
        assert one.place == best.index(item) + 1
        wanted = {
            "red": ("in the history",),
            "blue": ("colour = blue",),
            "green": ("colour = green, not red or blue",),
        }
        assert one.reasons == wanted[COLOUR[item]]
    assert not {one.item for one in found.recommended} & set(kept)


def test_a_member_has_the_history_of_its_row(root: Path, opened: Opened) -> None:
    rows = [json.loads(line) for line in (root / "data" / "views.jsonl").read_text().splitlines()]
    row = rows[7]
    member = next_items(read(root), opened, Request(member=str(row["id"]))).recommended
    assert member == next_items(read(root), opened, Request(tuple(row["items"]))).recommended
    assert not {one.item for one in member} & set(row["items"])
    with pytest.raises(PtwError, match="member 'nobody': no row of dataset views"):
        next_items(read(root), opened, Request(member="nobody"))
    with pytest.raises(PtwError, match="did not learn from a dataset of events"):
        next_items(read(root), replace(opened, dataset="chats"), Request(member=str(row["id"])))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(("item0",), filters=where(colour="pink")), "colour = pink: no item has it; "),
        (Request(("item0",), filters=where(size="big")), "no item has 'size'"),
        (Request(("item99",)), "item 'item99' is none of those that generate-001 knows"),
        (
            Request(("item0",), filters=replace(where(colour="red"), without={"colour": ["red"]})),
            "no item is left to recommend",
        ),
    ],
)
def test_what_cannot_be_is_said(root: Path, opened: Opened, request_: Request, message: str) -> None:
    with pytest.raises(PtwError, match=message):
        next_items(read(root), opened, request_)


def test_scores_of_one_token_each_are_filtered_alike(root: Path) -> None:
    trained(planned(root, "next", steps=2))
    opened = open_named(read(root), "next")
    found = next_items(read(root), opened, Request(("item0", "item3"), top=40)).recommended
    assert len(found) == 28
    assert sum(np.exp(one.log_probability) for one in found) == pytest.approx(1)


def test_the_commands(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)

    def ptw(*arguments: str) -> str:
        found = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.stdout

    told = json.loads(ptw("eval", "generate", "--json"))
    assert told["sequences"] == 40
    assert told["items"] == 30
    assert told["attribute"] == "colour"
    lines = ptw("recommend", "generate", "item1", "--where", "colour=red,green", "--top", "3").splitlines()
    assert len(lines) == 3
    assert all(line.startswith("item") for line in lines)
    assert CliRunner().invoke(cli, ["recommend", "generate", "item1", "--where", "colour"]).exit_code == 2
    lines = ptw("recommend", "generate", "--member", "3", "--without", "colour=red", "--why").splitlines()
    assert lines[10:12] == ["", "of the first 10 without filters: kept out are"]
    assert all(line.count("\t") == 2 for line in lines[:10] + lines[12:])
    told = json.loads(ptw("recommend", "generate", "item1", "--why", "--json"))
    assert set(told) == {"recommended", "kept_out"}
    assert CliRunner().invoke(cli, ["recommend", "generate", "item1", "--member", "3"]).exit_code == 2


def test_items_that_came_since_are_recommended_and_exported(root: Path, tmp_path: Path) -> None:
    later = Path(shutil.copytree(root, tmp_path / "ws"))
    names, codes = [f"item{n}" for n in range(30)], [[n % 7, n // 7] for n in range(30)]
    versions = {
        2: (codes + [[7, n] for n in range(5)], [*names, *(f"new{n}" for n in range(5))]),
        3: (codes[::-1], names),  # old items have other codes: not made for this model
    }
    for version, (changed, items) in versions.items():
        with_codes(later, "titles", changed, items=items, size=8, file="data/titles.jsonl", version=version)
    assert len(named(later)) == 30
    declare_version(later, 2)
    assert len(named(later)) == 35
    everything = Request(("item0", "new2"), top=40)
    found = next_items(read(later), open_named(read(later), "generate"), everything).recommended
    assert {one.item for one in found} == {*versions[2][1]} - {"item0", "new2"}
    folder = export_run(read(later), "generate", tmp_path / "exported")
    assert load_tokenizer(folder).vocabularies["titles"].items == tuple(versions[2][1])


def named(root: Path) -> tuple[str, ...]:
    tokenizer = open_named(read(root), "generate").tokenizer
    assert tokenizer is not None
    return catalogue_of(tokenizer).names


def test_a_run_that_scores_all_items_stands_beside(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)

    def told(*arguments: str) -> tuple[list[str], str]:
        done = CliRunner().invoke(cli, ["eval", "generate", "--json", *arguments], catch_exceptions=False)
        return list(json.loads(done.stdout)["figures"]), done.stderr

    newest = trained(planned(root, "next", steps=2)).folder.name
    assert told()[0] == ["generate-001", newest, "popularity", "knn"]
    assert told("--alone")[0] == ["generate-001"]
    for folder in (root / "runs").glob("next-*"):
        shutil.rmtree(folder)
    figures, said = told()
    assert figures == ["generate-001", "popularity", "knn"]
    assert "no run over a token for each of its items stands beside generate-001" in said


def test_an_mrr_that_ends_with_the_beams_says_so(root: Path) -> None:
    workspace, opened = read(root), open_named(read(root), "generate")
    found = recommend(workspace, [opened], workspace.datasets["views"], Asked((3, 12)))
    assert found.beams == {"generate-001": 24} == show.as_json(found)["beams"]
    assert "mrr of generate-001 ends with its 24 beams" in page.as_html(found)
    assert [row[0] for row in show.figures_table(found) if "mrr" in row[0]] == ["mrr (beams: 24)"]
    assert max(found.scorers[0].ranks_N[found.scorers[0].ranks_N < MISSED]) <= 24


def test_a_generator_needs_codes(root: Path) -> None:
    trained(planned(root, "chat", steps=1))
    opened = open_named(read(root), "chat")
    assert opened.tokenizer is not None
    with pytest.raises(PtwError, match="which semantic_ids"):
        Generator(opened.loaded.module, opened.tokenizer, 5)


def test_of_some_cases_alone_the_command_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    done = CliRunner().invoke(cli, ["eval", "generate", "--alone", "--cases", "21"], catch_exceptions=False)
    assert "views: the last item of 21 sequences, drawn at random from 40, among 30 items" in done.stdout
    assert "knn" not in done.stdout
    refused = CliRunner().invoke(cli, ["eval", "generate", "--cases", "0"])
    assert refused.exit_code == 2
