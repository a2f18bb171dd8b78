"""On which device is each viewing of the simulated service watched, and for how long?

An evening has one device, which suits the member and what is watched; what does not suit a member's taste is
often given up.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ptw.workspace.catalogue import Title

BEST_ON = {
    "tv": ("action", "sci-fi", "fantasy", "drama"),
    "tablet": ("family", "animation"),
    "phone": ("comedy", "romance", "thriller"),
    "web": ("documentary", "crime", "horror"),
}
DEVICES = tuple(BEST_ON)
DEVICE_OF = {genre: device for device, genres in BEST_ON.items() for genre in genres}
SUITS = 0.75  # chance that an evening is on the device that its genre is best on; else it is a habit's
EVENING_SECONDS = 6 * 3600  # a longer pause begins another evening
SHORTEST, LONGEST = 20 * 60, 60 * 60  # of a title, in seconds
GIVEN_UP = 0.6  # chance, of a genre that the member never watches; it falls to 0 with the genre's share
PATIENCE = 600  # seconds


def with_circumstances(
    rows: Iterable[Mapping[str, Any]], titles: Sequence[Title], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """The rows of viewings with `device` and `seconds` for each of their items."""
    genre_of = {title.id: title.genres[0] for title in titles}
    for row in rows:
        genres, times = [genre_of[item] for item in row["items"]], row["times"]
        devices = list(_devices(genres, times, rng))
        yield {**row, "device": devices, "seconds": list(_seconds(genres, times, rng))}


def _devices(genres: Sequence[str], times: Sequence[int], rng: np.random.Generator) -> Iterator[str]:
    habit = rng.dirichlet(np.ones(len(DEVICES)))
    device, before = "", -EVENING_SECONDS
    for genre, second in zip(genres, times, strict=True):
        if second - before >= EVENING_SECONDS:
            usual = DEVICES[rng.choice(len(DEVICES), p=habit)]
            device = DEVICE_OF[genre] if rng.random() < SUITS else usual
        before = second
        yield device


def _seconds(genres: Sequence[str], times: Sequence[int], rng: np.random.Generator) -> Iterator[int]:
    """Nobody watches two at once."""
    shares, pauses = Counter(genres), [after - before for before, after in pairwise(times)]
    for genre, pause in zip(genres, [*pauses, LONGEST], strict=True):
        length, stays = int(rng.integers(SHORTEST, LONGEST)), int(rng.integers(10, PATIENCE))
        liked = min(1.0, 3 * shares[genre] / len(genres))
        yield min(pause, stays if rng.random() < GIVEN_UP * (1 - liked) else length)
