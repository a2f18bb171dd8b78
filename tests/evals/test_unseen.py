"""A test that was learnt is refused, by whichever name its files go and whichever way they were learnt."""

import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import fsspec
import pyarrow.parquet
import pytest
import zstandard

from ptw.errors import PtwError
from ptw.evals.learnt import Repeated, repeated
from ptw.evals.unseen import demand_unseen
from ptw.files.find import find
from ptw.files.same import shared
from ptw.ports.load import Loaded
from ptw.runs import record
from ptw.runs.open import Opened
from ptw.tokens import fingerprint
from ptw.tokens.declared import open_tokenizer
from ptw.train.plan import resolve
from ptw.vocab.build import build, extend
from ptw.workspace.manifest import read
from tests.train.conftest import declare, make_workspace

ALL = """
[datasets.all]
source = {source}
format = "event"
leave_out = {leave_out}
[recipes.of-all]
recipe = "pretrain"
model = "tiny"
tokenizer = "items"
dataset = "all"
"""
CODES = """
[semantic_ids.titles]
items = "data/titles.jsonl"
behaviour = "views"
text = "title"
levels = 2
codebook_size = 8
[tokenizers.codes]
semantic_ids = "titles"
[recipes.generate]
recipe = "pretrain"
model = "tiny"
tokenizer = "codes"
dataset = "views"
"""
BEGUN = """
[models.taught]
hf = "runs/of-all-001/model"
[recipes.then]
recipe = "pretrain"
model = "taught"
tokenizer = "items"
dataset = "views"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "ws")


def judged(root: Path, recipe: str, **plan: Any) -> list[str]:
    """What is said of a run of this recipe, tested on `views`."""
    workspace = read(root)
    resolved = resolve(workspace, recipe, {})
    tokenizer = open_tokenizer(resolved.workspace(), resolved.tokenizer.name)
    made = {**resolved.as_json(), **plan}
    opened = Opened(f"{recipe}-001", cast(Loaded, None), tokenizer, plan=made)
    return demand_unseen(workspace, opened, workspace.datasets["views"])


def run_of(root: Path, recipe: str) -> Path:
    """The model's folder of a run, as it would be."""
    folder = record.create(root, recipe, plan=resolve(read(root), recipe, {}).as_json()).folder
    (folder / record.MODEL).mkdir()
    (folder / record.MODEL / "config.json").write_text('{"model_type": "llama"}')
    (folder / record.MODEL / "model.safetensors").touch()
    return folder / record.MODEL


def linked(root: Path) -> None:
    (root / "data" / "link.jsonl").symlink_to("views.jsonl")


def hard_linked(root: Path) -> None:
    (root / "data" / "link.jsonl").hardlink_to(root / "data" / "views.jsonl")


def copied(root: Path) -> None:
    shutil.copyfile(root / "data" / "views.jsonl", root / "data" / "link.jsonl")


@pytest.mark.parametrize(
    ("source", "prepare"),
    [
        ("data/views.jsonl", None),
        ("data/*.jsonl", None),
        ("data/../data/./views.jsonl", None),
        ("{root}/data/views.jsonl", None),
        ("file://{root}/data/v*.jsonl", None),
        ("data/link.jsonl", linked),
        ("data/link.jsonl", hard_linked),
        ("data/link.jsonl", copied),
    ],
)
def test_the_files_are_compared_and_not_their_names(
    root: Path, source: str, prepare: Callable[[Path], None] | None
) -> None:
    if prepare is not None:
        prepare(root)
    declare(root, ALL.format(source=json.dumps(source.format(root=root)), leave_out=0))
    words = r"of-all-001 learnt the last items of .*, the test: dataset all had leave_out = 0"
    with pytest.raises(PtwError, match=words):
        judged(root, "of-all")


def test_what_was_held_out_is_no_leak(root: Path) -> None:
    assert judged(root, "next") == []
    declare(root, ALL.format(source='"data/*.jsonl"', leave_out=1))
    assert judged(root, "of-all") == []


def rows_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "data" / "views.jsonl").read_text().splitlines()]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """As the file's name says it."""
    lines = "".join(json.dumps(row, indent=None, separators=(",", ": ")) + "\n" for row in rows).encode()
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        packed = {".gz": gzip.compress, ".zst": zstandard.compress}.get(file.suffix, bytes)
        file.write_bytes(packed(lines))


OTHER = [{"id": -1, "items": ["item1", "item2"]}]


@pytest.mark.parametrize("name", ["more.jsonl", "more.jsonl.gz", "more.jsonl.zst", "more.parquet"])
def test_a_copy_in_a_larger_file_is_found_by_its_rows(root: Path, name: str) -> None:
    views = rows_of(root)
    write(root / "data" / name, [*OTHER, *views[::-1]])
    declare(root, ALL.format(source=json.dumps(f"data/{name}"), leave_out=0))
    with pytest.raises(PtwError, match=f"of-all-001 learnt all {len(views)} sequences of the test to their"):
        judged(root, "of-all")
    write(root / "data" / name, [*OTHER, *views[:7]])
    (said,) = judged(root, "of-all")
    assert f"learnt 7 of the test's {len(views)} sequences to their last items" in said
    assert "dataset all (leave_out = 0) (8 rows)" in said


def test_users_that_are_others_are_told_with_what_was_compared(root: Path) -> None:
    write(root / "data" / "more.jsonl", [*OTHER, {"text": "no event"}])
    declare(root, ALL.format(source='"data/more.jsonl"', leave_out=0))
    (said,) = judged(root, "of-all")
    assert "other files than the test's: none of its 40 sequences stands there whole (2 rows)" in said


def test_what_cannot_be_compared_is_told(root: Path) -> None:
    plan = resolve_of(root)
    for leave_out, events in ((0, "all events"), (2, "events")):
        plan["datasets"]["views"] |= {"source": ["data/gone.jsonl"], "leave_out": leave_out}
        (said,) = judged(root, "next", datasets=plan["datasets"])
        assert f"learnt {events} of dataset views, which can't be compared" in said
        assert "data/gone.jsonl: no file" in said


@pytest.mark.parametrize(
    ("learnt", "leave_out", "found"),
    [
        ({"id": 7, "items": ["a", "b", "c"]}, 0, 1),
        ({"id": "7", "items": ["a", "b", "c"], "device": "tv"}, 0, 1),
        ({"id": 7, "items": ["a", "b", "c"]}, 1, 0),  # the test's last item was held out
        ({"id": 7, "items": ["a", "b", "c", "d"]}, 0, 1),  # as it went on
        ({"id": 7, "items": ["a", "b", "c", "d", "e"]}, 2, 1),
        ({"id": 7, "items": ["a", "b", "c", "d"]}, 2, 0),
        ({"id": 7, "items": ["a", "b"]}, 0, 0),  # a split by time
        ({"id": 8, "items": ["a", "b", "c"]}, 0, 0),  # somebody else with the same taste
        ({"items": ["a", "b", "c"]}, 0, 1),
        ({"items": ["a", "b", "c", "d"]}, 0, 0),
        ({"id": 3, "items": ["x", "y"]}, 0, 1),  # of the sequence without an id
        ({"id": 3, "items": ["x", "y", "z"]}, 0, 0),
        ({"items": ["x", "y", "z"]}, 1, 1),
        ({"id": 9, "items": ["z"]}, 0, 0),  # no test: nothing stands before it
    ],
)
def test_which_rows_give_a_test_away(
    tmp_path: Path, learnt: dict[str, Any], leave_out: int, found: int
) -> None:
    test = [{"id": "7", "items": ["a", "b", "c"]}, {"items": ["x", "y"]}, {"id": "9", "items": ["z"]}]
    write(tmp_path / "test.jsonl", test)
    write(tmp_path / "learnt.jsonl", [learnt, learnt])
    files = find(tmp_path, ("learnt.jsonl",))
    assert repeated(tmp_path, ("test.jsonl",), files, leave_out) == Repeated(found, 2, 2, True)
    part = repeated(tmp_path, ("test.jsonl",), files, leave_out, most=1)
    assert (part.rows, part.all_read) == (1, False)


def test_a_later_export_of_the_same_users_knows_the_test(root: Path) -> None:
    more = [row | {"items": [*row["items"], "item1", "item2"]} for row in rows_of(root)]
    write(root / "data" / "later.jsonl", more)
    declare(root, ALL.format(source='"data/later.jsonl"', leave_out=2))
    with pytest.raises(PtwError, match="its rows go on beyond the test's, so test on these"):
        judged(root, "of-all")


def test_files_of_a_store_are_known_by_their_urls(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name in ("one", "two"):
        store.pipe(f"/bucket/{name}.jsonl", b'{"items": ["a"]}\n')
    everything, one = ("memory://bucket/*.jsonl",), ("memory://bucket/one.jsonl",)
    assert shared(tmp_path, everything, one) == shared(tmp_path, one, everything)
    assert len(shared(tmp_path, everything, one)) == 1
    assert shared(tmp_path, one, ("memory://bucket/two.jsonl",)) == []


def test_codes_of_all_the_behaviour_know_the_test(root: Path) -> None:
    titles = [{"id": f"item{n}", "title": f"Film {n} of kind {n % 3}"} for n in range(30)]
    declare(root, CODES, titles=titles, new=[{"id": "late", "title": "Film of kind 1"}])
    views = read(root).datasets["views"]
    careless = dataclasses.replace(read(root), datasets={"views": dataclasses.replace(views, leave_out=0)})
    words = r"generate-001 has semantic_ids.titles, which learnt .* build it again with leave_out = 2"
    build(careless, "titles", print)
    with pytest.raises(PtwError, match=words):
        judged(root, "generate")
    extend(careless, "titles", "data/new.jsonl", 0, print)
    with pytest.raises(PtwError, match=words):
        judged(root, "generate")
    again = build(read(root), "titles", print)
    assert again.name == "0003"
    assert judged(root, "generate") == []
    assert build(read(root), "titles", print) == again


def test_codes_of_an_older_version_are_held_to_what_is_declared(root: Path) -> None:
    titles = [{"id": f"item{n}", "title": f"Film {n} of kind {n % 3}"} for n in range(30)]
    declare(root, CODES, titles=titles)
    file = build(read(root), "titles", print) / "vocabulary.json"
    facts = json.loads(file.read_text())
    del facts["learnt_from"]
    file.write_text(json.dumps(facts))
    assert judged(root, "generate") == []
    facts["declared"]["behaviour"] = "gone"
    file.write_text(json.dumps(facts))
    workspace = read(root)
    tokenizer = open_tokenizer(workspace, "codes")
    opened = Opened("generate-001", cast(Loaded, None), tokenizer, plan=resolve_of(root))
    (said,) = demand_unseen(workspace, opened, workspace.datasets["views"])
    assert "semantic_ids.titles, which learnt from gone, declared no more" in said


def resolve_of(root: Path) -> dict[str, Any]:
    return resolve(read(root), "next", {}).as_json()


def test_an_encoder_that_knows_the_test_gives_it_to_the_codes(root: Path) -> None:
    declare(root, ALL.format(source='"data/views.jsonl"', leave_out=0))
    run_of(root, "of-all")
    titles = [{"id": f"item{n}", "title": f"Film {n} of kind {n % 3}"} for n in range(30)]
    declare(root, CODES, titles=titles)
    file = build(read(root), "titles", print) / "vocabulary.json"
    facts = json.loads(file.read_text()) | {"encoder_model": {"hf": "runs/of-all-001/model"}}
    file.write_text(json.dumps(facts))
    with pytest.raises(PtwError, match="titles, which has the encoder of-all-001, which learnt the"):
        judged(root, "generate")


def test_what_a_run_began_from_may_know_the_test(root: Path) -> None:
    declare(root, ALL.format(source='"data/views.jsonl"', leave_out=0))
    model = run_of(root, "of-all")
    declare(root, BEGUN)
    words = r"then-001 began from of-all-001, which learnt the last items of data/views.jsonl"
    with pytest.raises(PtwError, match=words):
        judged(root, "then")
    own = resolve(read(root), "then", {}).as_json()
    teacher = {"name": "tiny", "hf": str(model.resolve())}
    with pytest.raises(PtwError, match="next-001 has the teacher of-all-001, which learnt"):
        judged(root, "next", roles={"teacher": teacher})
    further = run_of(root, "then")
    with pytest.raises(PtwError, match="from then-001, which began from of-all-001, which learnt"):
        judged(root, "then", model={**own["model"], "hf": str(further)})
    opened = Opened("taught", cast(Loaded, None), None)
    with pytest.raises(PtwError, match="taught is of-all-001, which learnt"):
        demand_unseen(read(root), opened, read(root).datasets["views"])


def test_a_beginning_that_tells_nothing_is_told(root: Path) -> None:
    other = {"name": "tiny", "hf": "gone/model", "revision": None}
    assert "next-001 began from gone/model, which is not there" in judged(root, "next", model=other)[0]
    (root / "gone" / "model").mkdir(parents=True)
    assert judged(root, "next", model=other) == [], "a checkpoint of others"
    (root / "gone" / "model" / fingerprint.FILE).write_text("{}")
    assert "is an export: what it learnt is not known" in judged(root, "next", model=other)[0]


def test_merges_of_all_the_events_know_the_test(root: Path) -> None:
    plan = resolve_of(root)
    plan["tokenizer"]["merges_from"] = "careless"
    careless = {**plan["datasets"]["views"], "name": "careless", "leave_out": 0}
    datasets = {**plan["datasets"], "careless": careless}
    with pytest.raises(
        PtwError, match=r"next-001 has merges, which learnt .* dataset careless had leave_out = 0"
    ):
        judged(root, "next", tokenizer=plan["tokenizer"], datasets=datasets)
