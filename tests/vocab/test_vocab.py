"""Semantic IDs: unique, the same again, extended without moving an old one, refitted with what it costs."""

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from click.testing import CliRunner
from pyarrow import parquet

from ptw.cli import cli
from ptw.errors import PtwError
from ptw.tokens.semantic import SemanticIds, ambiguous, open_semantic_ids, read_version, versions
from ptw.vocab import build as making
from ptw.vocab.behaviour import of_behaviour
from ptw.vocab.codec import Codec
from ptw.vocab.page import as_html, tree
from ptw.vocab.quantizers import QUANTIZERS, Shape
from ptw.vocab.report import report_of
from ptw.vocab.text import learn_lsa
from ptw.vocab.unique import placed
from ptw.workspace.manifest import SemanticIdsEntry, Workspace, read

KINDS = {
    "horror": "dark house night fear scream",
    "comedy": "wedding laugh family dinner mistake",
    "crime": "detective murder city police clue",
    "space": "ship planet star crew signal",
}
TOML = """
[workspace]
name = "films"
[semantic_ids.films]
items = "data/items.jsonl"
behaviour = "views"
levels = 3
codebook_size = 8
[datasets.views]
source = "data/views.jsonl"
format = "event"
leave_out = 2
"""


def film(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    kind = list(KINDS)[number % 4]
    words = [*rng.sample(KINDS[kind].split(), 4), f"name{number % 23}"]
    return {"id": f"f{number}", "text": " ".join(words), "genres": [kind], "year": 1990 + number % 30}


def write(root: Path, name: str, rows: list[Any]) -> None:
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def films(tmp_path: Path) -> Workspace:
    """120 films of four kinds; 80 people who each see one kind, and 20 films that come later."""
    write(tmp_path, "items.jsonl", [film(n) for n in range(120)])
    write(tmp_path, "new.jsonl", [film(n) for n in range(110, 140)])
    rng = random.Random(0)
    views = [{"items": [f"f{n}" for n in rng.sample(range(user % 4, 120, 4), 12)]} for user in range(80)]
    write(tmp_path, "views.jsonl", views)
    (tmp_path / "workspace.toml").write_text(TOML)
    return read(tmp_path)


def quiet(text: str) -> None:
    pass


def declared(workspace: Workspace, **keys: Any) -> Workspace:
    entry = dataclasses.replace(workspace.semantic_ids["films"], **keys)
    return dataclasses.replace(workspace, semantic_ids={"films": entry})


def used(workspace: Workspace) -> SemanticIds:
    return open_semantic_ids(workspace.root, workspace.semantic_ids["films"])


def test_a_vocabulary_is_unique_and_the_same_again(films: Workspace) -> None:
    folder = making.build(films, "films", quiet)
    ids = used(films)
    assert ids.items == tuple(f"f{n}" for n in range(120))
    assert ids.version == 1
    assert ambiguous(ids.codes_NL) == 0
    assert ids.codes_NL.max() < 8
    assert making.build(films, "films", quiet) == folder, "the same codes are no new version"
    assert versions(films.root, "films") == [1]
    making.build(declared(films, seed=1), "films", quiet)
    assert versions(films.root, "films") == [1, 2]
    pinned = declared(films, version=1)
    assert used(pinned).digest == ids.digest != used(films).digest
    with pytest.raises(PtwError, match="version = 7 is not there; there are 1, 2"):
        used(declared(films, version=7))


def test_codes_follow_what_items_are(films: Workspace) -> None:
    shares = report_of(films, making.build(films, "films", quiet)).figures["coherence"]
    assert shares["genres"]["0"] == pytest.approx(0.25, abs=0.05)
    assert shares["genres"]["1"] > 0.9, "films with the same first code are of a kind"
    assert set(shares) == {"genres", "year"}, "what few items share is no attribute"


def test_new_items_move_no_old_one(films: Workspace) -> None:
    making.build(films, "films", quiet)
    old = used(films)
    said: list[str] = []
    making.extend(films, "films", "data/new.jsonl", 0, said.append)
    new = used(films)
    assert said == ["20 items of data/new.jsonl are new, 10 are known"]
    assert new.version == 2
    assert len(new.items) == 140
    assert ambiguous(new.codes_NL) == 0
    assert (new.codes_NL[:120] == old.codes_NL).all()
    assert new.changed(old) == 0
    assert new.descends_from(old)
    assert not old.descends_from(new)
    kinds = [list(KINDS)[int(item[1:]) % 4] for item in new.items]
    nearest = [
        max(range(120), key=lambda row: (new.codes_NL[row] == new.codes_NL[late]).cumprod().sum())
        for late in range(120, 140)
    ]
    alike = np.mean([kinds[late] == kinds[row] for late, row in zip(range(120, 140), nearest, strict=True)])
    assert alike > 0.8, "a new film lies beside those of its kind"
    assert making.extend(films, "films", "data/new.jsonl", 0, quiet).name == "0002", "nothing was new"


def test_a_refit_says_what_it_changed(films: Workspace) -> None:
    making.build(films, "films", quiet)
    old = used(films)
    making.extend(films, "films", "data/new.jsonl", 5, quiet)
    new = used(films)
    churn = new.facts["churn"]
    assert churn["3"] == pytest.approx(new.changed(old) / 120)
    assert churn["1"] <= churn["2"] <= churn["3"]
    assert new.descends_from(old)
    assert new.facts["made_by"] == "refit 5"
    assert new.facts["parent"] == 1
    assert ambiguous(new.codes_NL) == 0


def test_more_items_than_codes_are_refused_before_the_work(films: Workspace) -> None:
    said: list[str] = []
    with pytest.raises(
        PtwError, match="items are more than the 4 codes of levels = 2 with codebook_size = 2"
    ):
        making.build(declared(films, levels=2, codebook_size=2), "films", said.append)
    assert len(said) == 1, "nothing was learnt yet"


def test_what_was_declared_otherwise_is_not_extended(films: Workspace) -> None:
    making.build(films, "films", quiet)
    with pytest.raises(PtwError, match=r"encoder = 'none', but version 1 was built with 'lsa'"):
        making.extend(declared(films, encoder="none"), "films", "data/new.jsonl", 0, quiet)
    with pytest.raises(PtwError, match=r"there is no \[semantic_ids.film\]; did you mean 'films'"):
        making.build(films, "film", quiet)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_each_quantizer_says_more_with_each_level(quantizer: str) -> None:
    generator = torch.Generator().manual_seed(0)
    centres_KD = torch.randn(12, 16, generator=generator)
    chosen = torch.randint(12, (400,), generator=generator)
    vectors_ND = centres_KD[chosen] + 0.2 * torch.randn(400, 16, generator=generator)
    codec = QUANTIZERS[quantizer](vectors_ND, Shape(3, 16, 0, steps=400), quiet)
    encoded_ND = codec.encoded(vectors_ND)
    codes_NL, left_ND = codec.codes(encoded_ND)
    assert codes_NL.shape == (400, 3)
    assert codes_NL.min() >= 0
    assert codes_NL.max() < 16
    left = [codec.left_over(encoded_ND, codes_NL[:, : level + 1]).square().sum() for level in range(3)]
    assert encoded_ND.square().sum() > left[0] > left[1] > left[2]
    torch.testing.assert_close(codec.left_over(encoded_ND, codes_NL), left_ND)
    assert len(codes_NL[:, 0].unique()) >= 8, "the first codebook did not collapse"
    same = torch.stack([chosen[one] == chosen[other] for one, other in _alike(codes_NL[:, 0])])
    assert same.float().mean() > 0.5, "vectors with the same first code are of one centre"


def _alike(codes_N: torch.Tensor) -> list[tuple[int, int]]:
    groups = [(codes_N == code).nonzero()[:, 0].tolist() for code in codes_N.unique()]
    return [(group[0], other) for group in groups for other in group[1:]]


def test_lfq_needs_a_power_of_two() -> None:
    with pytest.raises(PtwError, match="codebook_size = 12: residual-lfq needs a power of two; set 8 or 16"):
        QUANTIZERS["residual-lfq"](torch.randn(10, 4), Shape(2, 12, 0), quiet)


def test_items_that_are_alike_get_the_nearest_free_codes() -> None:
    books_LKD = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    codec = Codec(books_LKD)
    same_ND = torch.tensor([[0.3, 0.0], [0.1, 0.0], [0.2, 0.0]])
    found = placed(codec, same_ND)
    # the nearest keeps (0, 0), the next one (0, 1); the farthest leaves its prefix, which is full
    assert found.codes_NL.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert found.moved_N.tolist() == [True, False, True]
    assert found.largest == 3
    assert found.after > found.before
    taken = torch.tensor([[0, 0], [1, 1]])
    assert placed(codec, same_ND[:1], taken).codes_NL.tolist() == [[0, 1]]
    with pytest.raises(PtwError, match="5 items are more than the 4 codes of levels = 2"):
        placed(codec, torch.zeros(5, 2))


def test_what_is_held_out_gives_no_behaviour(films: Workspace) -> None:
    row_of = {f"f{n}": n for n in range(120)}
    before = of_behaviour(films.root, films.datasets["views"], row_of, 0)
    rows = [json.loads(line) for line in (films.root / "data" / "views.jsonl").read_text().splitlines()]
    write(films.root, "views.jsonl", [{"items": [*row["items"][:-2], "f0", "f1"]} for row in rows])
    torch.testing.assert_close(of_behaviour(films.root, films.datasets["views"], row_of, 0), before)
    kinds = torch.arange(120) % 4
    alike_NN = before @ before.T
    same_NN = kinds[:, None] == kinds
    assert alike_NN[same_NN].mean() > alike_NN[~same_NN].mean() + 0.3


def test_items_that_nobody_saw_lie_where_their_text_says(films: Workspace) -> None:
    rows = [json.loads(line) for line in (films.root / "data" / "views.jsonl").read_text().splitlines()]
    write(films.root, "views.jsonl", [{"items": [i for i in row["items"] if i != "f8"]} for row in rows])
    making.build(films, "films", quiet)
    ids = used(films)
    row = ids.row_of["f8"]
    kinds = [n % 4 for n in range(120) if (ids.codes_NL[n, 0] == ids.codes_NL[row, 0]) and n != row]
    assert kinds
    assert np.mean([kind == 0 for kind in kinds]) > 0.8
    with pytest.raises(PtwError, match=r"1 items stand in no sequence of dataset views, 'f8' among them"):
        making.build(declared(films, encoder="none"), "films", quiet)


def test_vectors_may_be_given(films: Workspace) -> None:
    rows = [{"id": f"f{n}", "embedding": np.eye(4)[n % 4].tolist()} for n in range(120)]
    write(films.root, "vectors.jsonl", rows)
    given = declared(films, behaviour=None, embeddings="data/vectors.jsonl")
    making.build(given, "films", quiet)
    ids = used(given)
    assert len({tuple(codes) for codes in ids.codes_NL[::4, :1].tolist()}) == 1, "equal vectors, equal code"
    columns = {"id": [row["id"] for row in rows], "embedding": [row["embedding"] for row in rows]}
    of_four = pyarrow.schema([("id", pyarrow.string()), ("embedding", pyarrow.list_(pyarrow.float32(), 4))])
    parquet.write_table(pyarrow.table(columns, of_four), films.root / "data" / "vectors.parquet")
    making.build(declared(films, behaviour=None, embeddings="data/vectors.parquet"), "films", quiet)
    assert versions(films.root, "films") == [1], "the same vectors, the same codes"
    write(films.root, "vectors.jsonl", rows[:-1])
    with pytest.raises(PtwError, match=r"1 items of data/items.jsonl have no embedding, 'f119' among them"):
        making.build(given, "films", quiet)
    write(films.root, "vectors.jsonl", [*rows[:-1], {"id": "f119", "embedding": [1.0]}])
    with pytest.raises(PtwError, match="not all of one width"):
        making.build(given, "films", quiet)


def test_text_alone_tells_kinds_apart() -> None:
    texts = [film(n)["text"] for n in range(80)]
    vectors_ND = learn_lsa(texts, 0)(texts)
    again_ND = learn_lsa(texts, 0)(["", *texts])
    torch.testing.assert_close(again_ND[1:], vectors_ND)
    assert again_ND[0].norm() == 0, "an empty text lies nowhere"
    alike_NN, same_NN = vectors_ND @ vectors_ND.T, torch.arange(80)[:, None] % 4 == torch.arange(80) % 4
    assert alike_NN[same_NN].mean() > alike_NN[~same_NN].mean() + 0.2


def test_a_version_that_was_changed_is_refused(films: Workspace) -> None:
    folder = making.build(films, "films", quiet)
    facts = json.loads((folder / "vocabulary.json").read_text())
    (folder / "vocabulary.json").write_text(json.dumps(facts | {"digest": "0" * 64}))
    with pytest.raises(PtwError, match="its files were changed since they were written"):
        read_version(folder)
    (folder / "items.parquet").write_bytes(b"no")
    with pytest.raises(PtwError, match="no vocabulary of semantic IDs"):
        read_version(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda row: row.pop("id"), "an item needs an `id`"),
        (lambda row: row.update(id="f1"), "id 'f1' is there twice"),
    ],
)
def test_bad_items_are_named(films: Workspace, damage: Callable[[Any], Any], message: str) -> None:
    rows = [film(n) for n in range(10)]
    damage(rows[3])
    write(films.root, "items.jsonl", rows)
    with pytest.raises(PtwError, match=message):
        making.build(films, "films", quiet)
    assert not versions(films.root, "films"), "nothing was written"


def test_the_commands(films: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(films.root)
    runner = CliRunner()

    def ptw(*arguments: str) -> str:
        found = runner.invoke(cli, ["vocab", *arguments], catch_exceptions=False)
        assert found.exit_code == 0, found.output
        return found.stdout

    assert "none: ptw vocab build films" in ptw("show")
    built = json.loads(ptw("build", "films", "--json"))
    assert built["version"] == 1
    assert built["figures"]["items"] == 120
    assert len(built["neighbours"]) == 4
    told = ptw("extend", "films", "--items", "data/new.jsonl", "--html", "page.html")
    assert "140, no two with the same codes" in told
    assert "from version 1" in told
    page = (films.root / "page.html").read_text()
    assert page.count("<rect") > 20
    assert "http" not in page.replace("http-equiv", "")
    assert json.loads(ptw("show", "--json"))[0]["versions"] == [1, 2]
    assert "level 2" in ptw("show", "films")


def test_the_tree_is_as_wide_as_its_items(films: Workspace) -> None:
    report = report_of(films, making.build(films, "films", quiet))
    blocks = tree(report)
    for level in range(3):
        row = [block for block in blocks if block.top == 34 * level]
        assert sum(block.width for block in row) == pytest.approx(1000, abs=1)
    assert "<title>" in as_html(report)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('encoder = "none"', "nothing gives the items vectors"),
        ('encoder = "bert"', "neither a model, a run nor a recipe"),
        ('embeddings = "data/none.parquet"', "there is no such file"),
        ('behaviour = "vews"', "did you mean 'views'?"),
        ('quantizer = "residual-lfq"\ncodebook_size = 100', "set 64 or 128"),
        ("levels = 9", "the most is 8"),
    ],
)
def test_a_wrong_declaration_is_told(tmp_path: Path, entry: str, message: str) -> None:
    write(tmp_path, "items.jsonl", [film(0)])
    write(tmp_path, "views.jsonl", [{"items": ["f0"]}])
    head, tail = TOML.split("[semantic_ids.films]"), "[datasets.views]"
    toml = f'{head[0]}[semantic_ids.films]\nitems = "data/items.jsonl"\n{entry}\n{tail}{TOML.split(tail)[1]}'
    (tmp_path / "workspace.toml").write_text(toml)
    with pytest.raises(PtwError, match=message.replace("?", r"\?")):
        read(tmp_path)


def test_entries_are_what_the_schema_says() -> None:
    schema = json.loads((Path(__file__).parents[2] / "ptw/workspace/schema.json").read_text())
    keys = schema["$defs"]["semantic_ids"]["properties"]
    fields = {field.name: field for field in dataclasses.fields(SemanticIdsEntry)}
    assert set(keys) == set(fields) - {"name"}
    for name, key in keys.items():
        if "default" in key:
            assert fields[name].default == key["default"]
