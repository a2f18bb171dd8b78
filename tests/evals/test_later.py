"""Items that came after a training: a share of each list is theirs, and the rest stands as before."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ptw.cli import cli
from ptw.evals.filters import Filters
from ptw.evals.next_items import Request, next_items
from ptw.runs.open import open_named
from ptw.workspace.manifest import read
from tests.evals.conftest import COLOUR, declare_version
from tests.train.conftest import with_codes


@pytest.fixture(scope="module")
def grown(over_codes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six items came after the run: new0 to new4 with a first code of their own, new5 with a known one."""
    grown = Path(shutil.copytree(over_codes, tmp_path_factory.mktemp("grown") / "ws"))
    codes = [[n % 7, n // 7] for n in range(30)] + [[7, n] for n in range(5)] + [[0, 7]]
    names = [*(f"item{n}" for n in range(30)), *(f"new{n}" for n in range(6))]
    with_codes(grown, "titles", codes, items=names, size=8, file="data/titles.jsonl", version=2)
    declare_version(grown, 2)
    return grown


def listed(root: Path, **asked: Any) -> list[str]:
    opened = open_named(read(root), "generate")
    found = next_items(read(root), opened, Request(("item0", "item3"), **asked)).recommended
    return [one.item for one in found]


def test_items_that_came_since_have_their_share_of_a_list(grown: Path) -> None:
    shared = listed(grown, top=20, new=0.2)
    assert [place for place, item in enumerate(shared, 1) if item.startswith("new")] == [5, 10, 15, 20]
    alone = [item for item in listed(grown, top=40) if item.startswith("item")]
    assert [item for item in shared if item.startswith("item")] == alone[:16], "the others stand as before"
    by_themselves = listed(grown, top=6, new=1.0)
    assert set(by_themselves) == {f"new{n}" for n in range(6)}
    assert [item for item in shared if item.startswith("new")] == by_themselves[:4]
    everything = listed(grown, top=40, new=0.5)
    assert len(everything) == len(set(everything)) == 34, "where one part ends the other goes on"


def test_filters_hold_for_the_share_too(grown: Path) -> None:
    red = listed(grown, top=40, new=0.5, filters=Filters(where={"colour": ["red"]}))
    assert set(red) == {item for item, colour in COLOUR.items() if colour == "red"} - {"item0", "item3"}


def test_a_share_is_measured_as_it_is_recommended(grown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(grown)

    def told(*arguments: str) -> tuple[dict[str, Any], str]:
        asked = ["eval", "generate", "--alone", "--json", *arguments]
        done = CliRunner().invoke(cli, asked, catch_exceptions=False)
        return json.loads(done.stdout), done.stderr

    plain, said = told()
    assert "generate-001 learnt nothing of 6 items that came since" in said
    shared, said = told("--new", "0.2")
    assert "learnt nothing" not in said
    assert shared["coverage@10"] != plain["coverage@10"]
    assert shared["recall@10"] <= plain["recall@10"], "no test's item came later, and two places are theirs"
    assert told("--new", "0")[0] == plain
    done = CliRunner().invoke(cli, ["recommend", "generate", "item1", "--new", "1.5"])
    assert done.exit_code == 2


def test_a_share_for_nobody_is_said(over_codes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(over_codes)
    done = CliRunner().invoke(cli, ["recommend", "generate", "item1", "--new", "0.1"], catch_exceptions=False)
    assert "--new 0.1: no items came after the training of generate-001" in done.stderr
    assert len(done.stdout.splitlines()) == 10
