"""What does it cost to build a vocabulary of semantic IDs, and how does that grow with the catalogue?"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from benchmarks.beauty import write
from benchmarks.report import Figure, memory_added, publish, real_data, two_threads
from ptw.tokens.semantic import ambiguous, open_semantic_ids
from ptw.vocab.build import build, extend
from ptw.workspace.manifest import Workspace, read

SIZES = (10_000, 100_000, 1_000_000)
WIDTH = 256
GROUPS = 1000  # that the simulated embeddings lie around
BEAUTY = """
[workspace]
name = "beauty"
[semantic_ids.both]
items = "data/items.jsonl"
behaviour = "users"
[semantic_ids.text]
items = "data/items.jsonl"
[datasets.users]
source = "data/users.jsonl"
format = "event"
leave_out = 2
"""
SIMULATED = """
[workspace]
name = "simulated"
[semantic_ids.many]
items = "data/items.jsonl"
embeddings = "data/embeddings.parquet"
"""


def main(root: Path) -> None:
    two_threads()
    source = real_data("amazon-beauty")
    figures = list(of_beauty(root / "beauty", source))
    for items in SIZES:
        figures += of_many(root / str(items), items)
    about = (
        "amazon-beauty's 12,101 items by text and behaviour, 3 x 256; simulated catalogues of given "
        f"embeddings of {WIDTH} numbers around {GROUPS:,} centres; from the files to the version on disk"
    )
    publish("vocabulary", about, figures)


def of_beauty(root: Path, source: Path) -> Iterator[Figure]:
    (root / "data").mkdir(parents=True)
    (root / "workspace.toml").write_text(BEAUTY)
    write(source, root / "data")
    workspace = read(root)
    for name, want in (("text", None), ("both", 5.0)):
        yield Figure(f"amazon-beauty, {name}", took(workspace, name), "s", want=want)
        ids = open_semantic_ids(root, workspace.semantic_ids[name])
        yield Figure(f"amazon-beauty, {name}: items that share codes", ambiguous(ids.codes_NL), want=0)
        figures = ids.facts["figures"]
        yield Figure(f"amazon-beauty, {name}: moved to codes that were free", figures["moved"])
        shares = figures["coherence"]["attributes"]
        yield Figure(f"amazon-beauty, {name}: two items share an attribute", shares["0"])
        yield Figure(f"amazon-beauty, {name}: two of the same first code do", shares["1"])


def of_many(root: Path, items: int) -> Iterator[Figure]:
    simulate(root, items)
    workspace = read(root)
    seconds = [0.0]

    def work() -> None:
        seconds[0] = took(workspace, "many")

    grown = memory_added(work)
    yield Figure(f"{items:,} items", seconds[0], "s", want=300 if items == SIZES[-1] else None)
    yield Figure(f"{items:,} items: memory beside what was held", grown, "GB")
    began = time.perf_counter()
    extend(workspace, "many", "data/new.jsonl", 0, lambda text: None)
    yield Figure(f"{items:,} items: {items // 100:,} more, by extend", time.perf_counter() - began, "s")


def took(workspace: Workspace, name: str) -> float:
    began = time.perf_counter()
    build(workspace, name, lambda text: None)
    return time.perf_counter() - began


def simulate(root: Path, items: int) -> None:
    """Items and their vectors; a hundredth more that come later."""
    (root / "data").mkdir(parents=True)
    (root / "workspace.toml").write_text(SIMULATED)
    rng = np.random.default_rng(0)
    count = items + items // 100
    centres = rng.standard_normal((GROUPS, WIDTH), dtype=np.float32)
    vectors = centres[rng.integers(0, GROUPS, count)] + rng.standard_normal((count, WIDTH), dtype=np.float32)
    flat = pyarrow.array(vectors.ravel())
    names = [f"i{number}" for number in range(count)]
    columns = {"id": names, "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, WIDTH)}
    parquet.write_table(pyarrow.table(columns), root / "data" / "embeddings.parquet")
    for file, part in (("items", names[:items]), ("new", names[items:])):
        lines = "".join(json.dumps({"id": name}) + "\n" for name in part)
        (root / "data" / f"{file}.jsonl").write_text(lines)


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="ptw-benchmark-") as folder:
        main(Path(folder))
