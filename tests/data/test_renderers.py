"""Rows made by processes are those made by a thread, faults and stops too, and none outlives who began it."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ptw.data.renderers import CHUNK_ROWS, Renderers
from ptw.data.sample import Sample
from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry, Share
from tests.data.test_stream import same
from tests.processes import below, is_gone

ROWS = 7 * CHUNK_ROWS + 5
DATASET = DatasetEntry("events", ("rows.jsonl",), "event", too_long="split")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw = random.Random(0)
    rows = [{"items": [f"i{draw.randrange(50)}" for _ in range(draw.randint(1, 30))]} for _ in range(ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def stream_of(root: Path, tokenizer: Tokenizer, renderers: int, **keys: Any) -> Stream:
    return Stream(root, DATASET, tokenizer, window=64, seed=0, renderers=renderers, **{"epochs": 2, **keys})


@pytest.mark.parametrize("renderers", [1, 3])
def test_the_same_rows_also_after_a_stop(root: Path, item_tokenizer: Tokenizer, renderers: int) -> None:
    plain = list(stream_of(root, item_tokenizer, 0))
    stream = stream_of(root, item_tokenizer, renderers)
    rows = [next(stream) for _ in range(len(plain) // 3)]
    state = stream.state_dict()
    stream.close()
    other = stream_of(root, item_tokenizer, renderers)
    other.load_state_dict(state)
    rows += list(other)
    other.close()
    assert len(rows) == len(plain)
    assert all(same(one, two) for one, two in zip(rows, plain, strict=True))


def test_parts_of_a_mix_share_the_processes(root: Path, item_tokenizer: Tokenizer) -> None:
    (root / "more.jsonl").write_text((root / "rows.jsonl").read_text())
    more = replace(DATASET, name="more", source=("more.jsonl",))
    mix = DatasetEntry("mix", (), "event", mix=(Share(DATASET, 0.3), Share(more, 0.7)))
    told = []
    for renderers in (0, 2):
        stream = Stream(root, mix, item_tokenizer, window=64, seed=0, epochs=2, renderers=renderers)
        told.append(list(stream))
        stream.close()
    assert len(told[0]) == len(told[1])
    assert all(same(one, two) for one, two in zip(*told, strict=True))


def test_long_rows_and_readers_that_wait_for_each_other(tmp_path: Path, item_tokenizer: Tokenizer) -> None:
    long = [Row(f"rows.jsonl:{n}", {"items": [f"i{n % 50}"] * 2_000}) for n in range(6 * CHUNK_ROWS)]
    made = Renderers(item_tokenizer, 1)
    one, other = made.of(long, DATASET), made.of(long, DATASET)
    for n, (first, second) in enumerate(zip(one, other, strict=True)):
        assert isinstance(first, Sample)
        assert isinstance(second, Sample)
        assert first.id == second.id == f"rows.jsonl:{n}"
    given_up = made.of(long, DATASET)
    next(given_up)
    again = [sample for sample in made.of(long[:40], DATASET) if isinstance(sample, Sample)]
    assert [sample.id for sample in again] == [row.place for row in long[:40]]
    made.close()


def test_a_fault_is_told_as_by_a_thread(root: Path, item_tokenizer: Tokenizer) -> None:
    with (root / "rows.jsonl").open("a") as file:
        file.write('{"items": ["nobody"]}\n')
    told = []
    for renderers in (0, 2):
        stream = stream_of(root, item_tokenizer, renderers, shuffle=False)
        with pytest.raises(PtwError) as error:
            list(stream)
        told.append(str(error.value))
        stream.close()
    assert told[0] == told[1]
    assert f"rows.jsonl:{ROWS + 1}" in told[0]


def test_a_mistake_of_ptws_own_is_raised_as_it_is(item_tokenizer: Tokenizer) -> None:
    made = Renderers(item_tokenizer, 1)
    unknown = replace(DATASET, format="nosuch")
    with pytest.raises(KeyError, match="nosuch"):
        list(made.of([Row("rows.jsonl:1", {"items": ["i1"]})], unknown))
    made.close()


def test_a_dead_process_is_said(root: Path, item_tokenizer: Tokenizer) -> None:
    stream = stream_of(root, item_tokenizer, 1, epochs=None)
    next(stream)
    (process,) = multiprocessing.active_children()
    process.kill()
    with pytest.raises(PtwError, match="a process that renders rows died"):
        list(islice(stream, 10_000))
    stream.close()


ENDLESS = """
import sys
from pathlib import Path
from ptw.data.stream import Stream
from ptw.tokens.tokenizer import load_tokenizer
from ptw.workspace.manifest import DatasetEntry

if __name__ == "__main__":
    dataset = DatasetEntry("events", ("rows.jsonl",), "event", too_long="split")
    tokenizer = load_tokenizer(Path("tokenizer"))
    stream = Stream(Path("."), dataset, tokenizer, window=64, seed=0, epochs=None, renderers=2)
    for number, row in enumerate(stream):
        if number == 3:
            print("reads", flush=True)
"""


def test_processes_end_with_whoever_is_killed(
    root: Path, item_tokenizer: Tokenizer, repository: Path
) -> None:
    item_tokenizer.hf.save_pretrained(root / "tokenizer")
    (root / "endless.py").write_text(ENDLESS)
    environment = os.environ | {"PYTHONPATH": str(repository)}
    command = [sys.executable, "endless.py"]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reads\n"
        readers = below(process.pid)
        assert len(readers) >= 2
        process.kill()
    until = time.monotonic() + 20
    while not all(is_gone(reader) for reader in readers) and time.monotonic() < until:
        time.sleep(0.1)
    assert all(is_gone(reader) for reader in readers)
