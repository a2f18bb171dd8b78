"""What do semantic IDs owe to text and behaviour, and can items that came later be recommended?

Decoders over the codes of amazon-beauty, as of benchmarks.beauty but with 6 epochs and one seed, tested on
5,000 of the users: codes of random vectors, of text, of behaviour, of both. Then a tenth of the items is
taken out of training and vocabulary, and added by `ptw vocab extend`: how often is one recommended to those
who bought it next, by the share of each list that is theirs (`--new`), and what does that cost all others?
Rows are kept one by one in results/codes.jsonl; `python -m benchmarks.codes`
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import torch
from pyarrow import parquet
from safetensors.torch import load_file

from benchmarks.beauty import OVER_CODES, write
from benchmarks.report import Figure, Kept, Row, publish, real_data, two_threads
from benchmarks.workspaces import figures_of, ptw, workspace
from ptw.tokens.semantic import SemanticIds, open_semantic_ids, version_folder
from ptw.vocab.behaviour import of_behaviour
from ptw.vocab.build import VECTORS
from ptw.workspace.manifest import DatasetEntry, read

KEPT = Kept("codes")
TESTED = 5_000  # users
LATER = 10  # every so manieth item comes later
SHARES = (0, 0.1, 0.2)  # of a list for them
SHOWN = ("recall@10", "ndcg@10", "recall@5")
TESTS = """
[workspace]
name = "codes"

[datasets.tested]
source = "data/tested.jsonl"
format = "event"
leave_out = 2
too_long = "truncate"
"""
OTHERS = """
[datasets.others]
source = "data/others.jsonl"
format = "event"
leave_out = 2
too_long = "truncate"
"""
OVER = """
[semantic_ids.{name}]
items = "data/items.jsonl"
{how}

[tokenizers.{name}]
semantic_ids = "{name}"

[recipes.{name}]
recipe = "pretrain"
model = "over-codes"
tokenizer = "{name}"
dataset = "users"

[recipes.{name}.settings]
epochs = 6
window = 512
rows = 8
learning_rate = 2e-3
warmup = 50
weight_decay = 0.1
eval_every = 100000
eval_sequences = 1000
"""
VOCABULARIES = {
    "random": 'embeddings = "data/random.parquet"',
    "text": "",
    "both": 'behaviour = "users"',
    "behaviour": 'embeddings = "data/behaviour.parquet"',
}


def main() -> None:
    source = real_data("amazon-beauty")
    two_threads()
    with workspace(TESTS + OTHERS + OVER_CODES + OVER.format(name="both", how=VOCABULARIES["both"])) as root:
        if not KEPT.has(row="later"):
            KEPT.add({"row": "later", **of_later_items(root, source)})
    with workspace(TESTS + OTHERS + OVER_CODES + OVER.format(name="both", how=VOCABULARIES["both"])) as root:
        if not KEPT.has(row="neighbours"):
            KEPT.add({"row": "neighbours", **of_neighbours(root, source)})
    tables = (OVER.format(name=name, how=how) for name, how in VOCABULARIES.items())
    with workspace(TESTS + OVER_CODES + "".join(tables)) as root:
        write(source, root / "data")
        head(root / "data" / "users.jsonl", root / "data" / "tested.jsonl", TESTED)
        write_vectors(root)
        for name in VOCABULARIES:
            if not KEPT.has(row=name):
                KEPT.add({"row": name, **measured(root, name)})
    told = (
        "amazon-beauty, a llama of 4 layers over 3 x 256 semantic IDs, 6 epochs, one seed, the next item of "
        f"{TESTED:,} users among all; below, a tenth of the items added by `vocab extend` after training: "
        f"those users whose next item is one, and {TESTED:,} of the others"
    )
    publish("codes", told, list(figures()))


def measured(root: Path, name: str) -> Row:
    ptw(root, "vocab", "build", name)
    ptw(root, "train", name)
    found = figures_of(root, "eval", name, "--dataset", "tested")
    return {figure: found[figure] for figure in SHOWN}


def of_later_items(root: Path, source: Path) -> Row:
    """The vocabulary and the training know nine tenths of the items; the test's next item is another."""
    later = take_out(root, source)
    ptw(root, "vocab", "build", "both")
    ptw(root, "train", "both")
    before = vocabulary(root)
    ptw(root, "vocab", "extend", "both", "--items", "data/new.jsonl")
    after = vocabulary(root)
    assert set(after.items) - set(before.items) == later
    found = {
        (name, share): figures_of(root, "eval", "both", "--dataset", name, "--new", str(share))
        for name in ("tested", "others")
        for share in SHARES
    }
    return {
        "users": found["tested", 0]["sequences"],
        "items": found["tested", 0]["items"],
        "changed": after.changed(before),
        **{f"{name}, {share:g} of the list": one["recall@10"] for (name, share), one in found.items()},
    }


def of_neighbours(root: Path, source: Path) -> Row:
    """Without a model: the later items whose vectors are nearest to that of the last item, as many as a share
    of ten places holds.
    """
    later = take_out(root, source)
    ptw(root, "vocab", "build", "both")
    ptw(root, "vocab", "extend", "both", "--items", "data/new.jsonl")
    ids = vocabulary(root)
    file = version_folder(root, "both", ids.version) / VECTORS
    vectors_ND = torch.nn.functional.normalize(load_file(file)["vectors"].float())
    is_later_N = torch.tensor([item in later for item in ids.items])
    hits = dict.fromkeys(SHARES, 0)
    tested = lines(root / "data" / "tested.jsonl")
    for *_, last, target in (user["items"] for user in tested):
        near_N = (vectors_ND @ vectors_ND[ids.row_of[last]]).masked_fill(~is_later_N, -torch.inf)
        near_N[ids.row_of[last]] = -torch.inf
        for share in SHARES:
            hits[share] += ids.row_of[target] in near_N.topk(round(10 * share)).indices.tolist()
    return {f"{share:g} of the list": count / len(tested) for share, count in hits.items()}


def take_out(root: Path, source: Path) -> set[str]:
    """Writes the data, the later items in a file of their own and in nobody's training; which they are."""
    data = root / "data"
    write(source, data)
    items = lines(data / "items.jsonl")
    later = {item["id"] for item in items[::LATER]}
    dump(data / "new.jsonl", (item for item in items if item["id"] in later))
    dump(data / "items.jsonl", (item for item in items if item["id"] not in later))
    users = lines(data / "users.jsonl")
    dump(data / "tested.jsonl", (user for user in users if user["items"][-1] in later))
    dump(data / "others.jsonl", [user for user in users if user["items"][-1] not in later][:TESTED])
    known = ({**user, "items": [item for item in user["items"] if item not in later]} for user in users)
    dump(data / "users.jsonl", (user for user in known if user["items"]))
    return later


def vocabulary(root: Path) -> SemanticIds:
    return open_semantic_ids(root, read(root).semantic_ids["both"])


def figures() -> Iterator[Figure]:
    rows = {row["row"]: row for row in KEPT.rows()}
    for name in VOCABULARIES:
        for figure in SHOWN:
            yield Figure(f"codes of {name}: {figure}", float(rows[name][figure]))
    later = rows["later"]
    chance = 10 / float(later["items"])
    yield Figure("later items: users", float(later["users"]))
    yield Figure("later items: old items with other codes", float(later["changed"]), want=0)
    yield Figure("later items: recall@10 by chance", chance)
    for share in SHARES:
        own, others = (float(later[f"{name}, {share:g} of the list"]) for name in ("tested", "others"))
        want = chance if share else None
        yield Figure(f"later items, {share:.0%} of a list theirs: recall@10", own, want=want, better="more")
        yield Figure(f"others, {share:.0%} of a list given away: recall@10", others)
        if share:
            near = float(rows["neighbours"][f"{share:g} of the list"])
            yield Figure(f"later items, {share:.0%}, the nearest to the last item: recall@10", near)


def write_vectors(root: Path) -> None:
    """Of each item a vector that says nothing, and one of behaviour alone; random where nobody bought it."""
    users = DatasetEntry("users", ("data/users.jsonl",), "event", leave_out=2)
    items = [str(item["id"]) for item in lines(root / "data" / "items.jsonl")]
    row_of = {item: row for row, item in enumerate(items)}
    acted_ND = of_behaviour(root, users, row_of, seed=0)
    random_ND = torch.randn(acted_ND.shape, generator=torch.Generator().manual_seed(0))
    acted_ND = torch.where(acted_ND.norm(dim=-1, keepdim=True) > 0, acted_ND, random_ND)
    for name, vectors_ND in (("random", random_ND), ("behaviour", acted_ND)):
        flat = pyarrow.array(torch.nn.functional.normalize(vectors_ND).numpy().ravel())
        lists = pyarrow.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
        parquet.write_table(
            pyarrow.table({"id": items, "embedding": lists}), root / "data" / f"{name}.parquet"
        )


def head(source: Path, target: Path, count: int) -> None:
    dump(target, lines(source)[:count])


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def dump(file: Path, found: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


if __name__ == "__main__":
    main()
