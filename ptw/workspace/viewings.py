"""Who watches what, and when, on the simulated streaming service?

Popularity is skewed, every member has a taste for a few genres and a limit of maturity, an evening stays
with one genre, new titles are watched soon, and who has seen a part goes on to the next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ptw.workspace.catalogue import GENRES, MATURITY, WINDOW_DAYS, Title

FIRST_SECOND = 1_717_200_000  # 1 June 2024, midnight UTC
ZIPF_EXPONENT = 1.25
TASTE_WEIGHT = 1.8  # of log taste in a title's score
EVENING_WEIGHT = 2.5  # of the evening's genre
NEW_WEIGHT, NEW_DAYS = 1.5, 30.0
UNPREPARED = -5.0  # a part whose predecessor the member has not seen
NEXT_PART = 0.75  # chance to go on within an evening
RETURN = 0.45  # chance to begin an evening with the next part of what is unfinished
MATURITY_SHARES = (0.06, 0.1, 0.12, 0.12, 0.6)  # of the members, by their limit


@dataclass(frozen=True)
class Catalogue:
    """The titles as arrays, row for row."""

    ids: tuple[str, ...]
    genres: np.ndarray  # (titles, genres), rows sum to 1
    log_appeal: np.ndarray
    maturity: np.ndarray
    released: np.ndarray
    before: np.ndarray  # the row of the part before; -1 for none
    after: np.ndarray  # the row of the next part; -1 for none


def catalogue_of(titles: Sequence[Title], rng: np.random.Generator) -> Catalogue:
    genres = np.array([[genre in title.genres for genre in GENRES] for title in titles], dtype=np.float64)
    ranks = rng.permutation(len(titles))
    row_of = {(title.series, title.part): row for row, title in enumerate(titles) if title.series}
    before = [row_of.get((title.series or "", title.part - 1), -1) for title in titles]
    after = [row_of.get((title.series or "", title.part + 1), -1) for title in titles]
    return Catalogue(
        ids=tuple(title.id for title in titles),
        genres=genres / genres.sum(1, keepdims=True),
        log_appeal=-ZIPF_EXPONENT * np.log(ranks + 2.0),
        maturity=np.array([MATURITY.index(title.maturity) for title in titles]),
        released=np.array([title.released_day for title in titles]),
        before=np.array(before),
        after=np.array(after),
    )


def make_viewings(
    catalogue: Catalogue, members: int, rng: np.random.Generator
) -> Iterator[dict[str, object]]:
    """Rows in the event format: {"id", "items", "times"}, oldest first, no title twice."""
    width = max(5, len(str(members)))
    for number in range(members):
        rows, seconds = watch(catalogue, rng)
        items = [catalogue.ids[row] for row in rows]
        yield {"id": f"m{number + 1:0{width}d}", "items": items, "times": seconds}


def watch(catalogue: Catalogue, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """One member's history: rows of the catalogue, and Unix seconds."""
    taste = rng.dirichlet(np.full(catalogue.genres.shape[1], 0.25))
    limit = rng.choice(len(MATURITY), p=MATURITY_SHARES)
    score = catalogue.log_appeal + TASTE_WEIGHT * np.log(catalogue.genres @ taste + 0.02)
    score = np.where(catalogue.maturity <= limit, score, -np.inf)
    allowed = int((catalogue.maturity <= limit).sum())
    wanted = int(np.clip(rng.lognormal(np.log(12), 1.25), 1, max(1, 0.7 * allowed)))
    lengths = evening_lengths(wanted, rng)
    joined = rng.integers(0, int(0.7 * WINDOW_DAYS))
    days = np.sort(rng.integers(joined, WINDOW_DAYS, size=len(lengths)))
    seen: list[int] = []
    seconds: list[int] = []
    second = 0
    for day, length in zip(days, lengths, strict=True):
        evening = FIRST_SECOND + int(day) * 86_400 + int(rng.integers(17 * 3600, 20 * 3600))
        second = max(second, evening)
        for row in watch_evening(catalogue, score, taste, int(day), seen, length, rng):
            seen.append(row)
            seconds.append(second)
            second += int(rng.integers(20 * 60, 60 * 60))
    return seen, seconds


def evening_lengths(wanted: int, rng: np.random.Generator) -> list[int]:
    lengths: list[int] = []
    while wanted > 0:
        lengths.append(min(wanted, 1 + int(rng.poisson(1.3))))
        wanted -= lengths[-1]
    return lengths


def watch_evening(
    catalogue: Catalogue,
    score: np.ndarray,
    taste: np.ndarray,
    day: int,
    seen: Sequence[int],
    length: int,
    rng: np.random.Generator,
) -> list[int]:
    """What the member watches this evening; less than `length` when nothing is left."""
    age = day - catalogue.released
    genre = rng.choice(len(taste), p=taste)
    score = score + EVENING_WEIGHT * catalogue.genres[:, genre] + NEW_WEIGHT * np.exp(-age / NEW_DAYS)
    score = np.where(age >= 0, score, -np.inf)
    score[list(seen)] = -np.inf
    prepared = catalogue.before < 0
    prepared[[next_row for row in seen if (next_row := catalogue.after[row]) >= 0]] = True
    watched: list[int] = []
    going_on = unfinished(catalogue, score, seen) if rng.random() < RETURN else -1
    while len(watched) < length and np.isfinite(score).any():
        row = going_on if going_on >= 0 else drawn(score + UNPREPARED * ~prepared, rng)
        watched.append(row)
        score[row] = -np.inf
        going_on, next_row = -1, catalogue.after[row]
        if next_row >= 0:
            prepared[next_row] = True
            going_on = int(next_row) if np.isfinite(score[next_row]) and rng.random() < NEXT_PART else -1
    return watched


def unfinished(catalogue: Catalogue, score: np.ndarray, seen: Sequence[int]) -> int:
    """The next part of the series that was watched last, of those that can go on; -1 for none."""
    for row in reversed(seen):
        following = int(catalogue.after[row])
        if following >= 0 and np.isfinite(score[following]):
            return following
    return -1


def drawn(score: np.ndarray, rng: np.random.Generator) -> int:
    chances = np.cumsum(np.exp(score - score.max()))
    return min(int(np.searchsorted(chances, rng.random() * chances[-1], side="right")), len(score) - 1)
