"""Which data does a new workspace begin with? A streaming service, simulated from a seed.

The same size and seed give the same bytes. Nothing real is in it: no titles, no people.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ptw.workspace.catalogue import make_titles
from ptw.workspace.chats import make_chats, shelf_of
from ptw.workspace.circumstances import with_circumstances
from ptw.workspace.viewings import catalogue_of, make_viewings

MEMBERS = 1500  # by default; the other sizes follow from it
SMALLEST = 50
TITLES = 400


def write_service(folder: Path, members: int = MEMBERS, seed: int = 0) -> None:
    """items.jsonl, viewings.jsonl, chats.jsonl and chats-held-out.jsonl into this folder, which exists."""
    # a stream of its own for each file: a change to one leaves the others as they are
    streams = [np.random.default_rng([seed, number]) for number in range(6)]
    titles = make_titles(title_count(members), streams[0])
    shelf = shelf_of(titles)
    write_rows(folder / "items.jsonl", (title.row() for title in titles))
    viewings = make_viewings(catalogue_of(titles, streams[1]), members, streams[2])
    write_rows(folder / "viewings.jsonl", with_circumstances(viewings, titles, streams[5]))
    write_rows(folder / "chats.jsonl", make_chats(shelf, members * 4 // 5, streams[3]))
    write_rows(folder / "chats-held-out.jsonl", make_chats(shelf, max(20, members // 10), streams[4]))


def title_count(members: int) -> int:
    """More members know more titles, but not in proportion."""
    return round(TITLES * math.pow(members / MEMBERS, 0.4))


def write_rows(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
