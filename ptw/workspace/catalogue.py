"""Which titles does the simulated streaming service have?"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

WORDS: dict[str, Any] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
GENRES = tuple(WORDS["genres"])
MATURITY = ("all", "7+", "12+", "16+", "18+")
# how likely each genre is at each of them
MATURITY_OF = {
    "family": (0.7, 0.3, 0.0, 0.0, 0.0),
    "animation": (0.5, 0.35, 0.15, 0.0, 0.0),
    "documentary": (0.3, 0.3, 0.3, 0.1, 0.0),
    "fantasy": (0.05, 0.25, 0.45, 0.25, 0.0),
    "comedy": (0.1, 0.2, 0.4, 0.25, 0.05),
    "romance": (0.05, 0.1, 0.5, 0.3, 0.05),
    "horror": (0.0, 0.0, 0.05, 0.45, 0.5),
    "crime": (0.0, 0.0, 0.2, 0.5, 0.3),
}
USUAL = (0.02, 0.08, 0.4, 0.35, 0.15)
MIXES = {"animation": "family", "family": "animation", "crime": "thriller", "thriller": "crime"}
WINDOW_DAYS = 730  # viewings are simulated over these many days
NEW_SHARE = 0.25  # of the titles come out within them
FIRST_YEAR, LAST_YEAR = 1985, 2024


@dataclass(frozen=True)
class Title:
    id: str
    name: str
    plot: str
    genres: tuple[str, ...]
    maturity: str
    year: int
    series: str | None
    part: int
    released_day: int  # in the simulated window; at most 0 for those from before it

    def row(self) -> dict[str, object]:
        """A row of items.jsonl."""
        text = f"{self.name} ({self.year}). {', '.join(self.genres)}. {self.maturity}. {self.plot}"
        attributes = {"genres": list(self.genres), "maturity": self.maturity, "year": self.year}
        series = {} if self.series is None else {"series": self.series, "part": self.part}
        return {"id": self.id, "text": text, "title": self.name, "plot": self.plot, **attributes, **series}


def make_titles(count: int, rng: np.random.Generator) -> list[Title]:
    """About two in five belong to a series, whose parts share genre and maturity and come out in order."""
    titles: list[Title] = []
    names: set[str] = set()
    while len(titles) < count:
        parts = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.78, 0.08, 0.07, 0.04, 0.02, 0.01]))
        titles += make_series(names, min(parts, count - len(titles)), rng)
    width = max(4, len(str(count)))
    order = rng.permutation(count)  # so that an id tells nothing of series or popularity
    return [replace(titles[place], id=f"t{number + 1:0{width}d}") for number, place in enumerate(order)]


def make_series(names: set[str], parts: int, rng: np.random.Generator) -> list[Title]:
    name = new_name(names, rng)
    genres = make_genres(rng)
    maturity = MATURITY[rng.choice(len(MATURITY), p=MATURITY_OF.get(genres[0], USUAL))]
    is_new = rng.random() < NEW_SHARE
    day = int(rng.integers(1, WINDOW_DAYS // 2 if parts > 1 else WINDOW_DAYS)) if is_new else 0
    year = LAST_YEAR if is_new else int(LAST_YEAR - rng.integers(0, LAST_YEAR - FIRST_YEAR - 3 * parts))
    titles = []
    for part in range(1, parts + 1):
        full = name if part == 1 else f"{name} {part}"
        plot = make_plot(genres[0], rng)
        if part > 1:
            plot = f"After the events of {name if part == 2 else f'{name} {part - 1}'}: {plot}"
        series = name if parts > 1 else None
        released = min(year + day // 365, LAST_YEAR + 1)
        titles.append(Title("", full, plot, genres, maturity, released, series, part, day))
        year = min(year + int(rng.integers(1, 4)), LAST_YEAR) if not is_new else year
        day = min(day + int(rng.integers(60, 150)), WINDOW_DAYS) if is_new else 0
    return titles


def make_genres(rng: np.random.Generator) -> tuple[str, ...]:
    first = str(rng.choice(GENRES))
    if rng.random() < 0.5:
        return (first,)
    second = MIXES.get(first) or str(rng.choice(["drama", "comedy", "action", "romance"]))
    return (first,) if second == first else (first, second)


def make_plot(genre: str, rng: np.random.Generator) -> str:
    hero, aim = (rng.choice(WORDS["genres"][genre][kind]) for kind in ("heroes", "aims"))
    return f"{hero} in {rng.choice(WORDS['places'])}: they {aim}, {rng.choice(WORDS['obstacles'])}."


def new_name(names: set[str], rng: np.random.Generator) -> str:
    """A name that no title has yet; longer ones when the short are used up."""
    for attempt in range(1000):
        adjective, noun, place = (rng.choice(WORDS[kind]) for kind in ("adjectives", "nouns", "places"))
        forms = (f"The {adjective} {noun}", f"{noun} of {place}", f"{adjective} {noun} in {place}")
        name = forms[int(rng.integers(2)) if attempt < 3 else 2]
        if name not in names:
            names.add(name)
            return name
    raise ValueError("no names are left: ask for fewer titles")
