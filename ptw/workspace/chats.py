"""What do members ask the simulated service's assistant, and what does it answer?

Every answer is true to the catalogue, so that a model can learn it and a reader can check it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptw.workspace.catalogue import GENRES, MATURITY, Title

Message = dict[str, Any]
AGES = (0, 7, 12, 16, 18)  # from which a title of each maturity is allowed

SYSTEMS = (
    "You are the assistant of a streaming service. Answer in one or two sentences.",
    "You help members choose what to watch. Recommend only titles of the catalogue.",
    "You answer questions about titles. Never reveal how a story ends.",
    "This is a family account: say from which age a title is allowed.",
)
TOOL = {
    "type": "function",
    "function": {
        "name": "find_titles",
        "description": "Titles of the catalogue by genre and maturity.",
        "parameters": {
            "type": "object",
            "properties": {
                "genre": {"type": "string", "enum": list(GENRES)},
                "maturity": {"type": "string", "enum": list(MATURITY)},
            },
            "required": ["genre"],
        },
    },
}
ASK_NEXT = (
    "I loved {name}. What should I watch next?",
    "We just finished {name}. Anything like it?",
    "{name} was great! More of that, please.",
    "What comes after {name}?",
)
ASK_GENRE = (
    "What should I watch tonight? I feel like {genre}.",
    "Can you recommend a good {genre}?",
    "I want something from {genre}, not too old.",
    "Do you have any {genre} that my friends may not know?",
)
ASK_PLOT = ("What is {name} about?", "Tell me the plot of {name}.", "{name}: what happens in it?")
ASK_KIND = ("Which genre is {name}?", "What kind of title is {name}?", "Is {name} a {genre}?")
ASK_AGE = (
    "Can my {age} year old watch {name}?",
    "Is {name} fine for a child of {age}?",
    "From which age is {name}? My daughter is {age}.",
)
THANKS = (("Thanks!", "Enjoy it!"), ("Great, thank you.", "You are welcome. Have a good evening!"))


@dataclass(frozen=True)
class Shelf:
    """The catalogue as the assistant looks things up in it."""

    titles: tuple[Title, ...]
    by_genre: Mapping[str, tuple[Title, ...]]
    by_part: Mapping[tuple[str, int], Title]


def shelf_of(titles: Sequence[Title]) -> Shelf:
    by_genre = {genre: tuple(title for title in titles if genre in title.genres) for genre in GENRES}
    by_part = {(title.series, title.part): title for title in titles if title.series}
    return Shelf(tuple(titles), {genre: found for genre, found in by_genre.items() if found}, by_part)


def make_chats(shelf: Shelf, count: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Rows in the chat format; some with a system prompt, a few with a tool, a few very long."""
    for _ in range(count):
        with_tool = rng.random() < 0.06
        messages: list[Message] = []
        if rng.random() < 0.3:
            messages.append({"role": "system", "content": str(rng.choice(SYSTEMS))})
        title = pick(shelf.titles, rng)
        turns = min(int(rng.geometric(0.45)), 12)
        for number in range(turns):
            if with_tool and number == 0:
                added, title = tool_turn(shelf, title, rng)
            else:
                added, title = turn(shelf, title, rng)
            messages += added
        if turns > 1 and rng.random() < 0.4:
            messages += exchange(*THANKS[int(rng.integers(len(THANKS)))])
        yield {"messages": messages, "tools": [TOOL]} if with_tool else {"messages": messages}


def turn(shelf: Shelf, title: Title, rng: np.random.Generator) -> tuple[list[Message], Title]:
    """A question and its answer, and the title that the talk is about from here."""
    genre = title.genres[0]
    match rng.choice(["next", "genre", "plot", "kind", "age"], p=[0.3, 0.2, 0.2, 0.15, 0.15]):
        case "next":
            following = next_title(shelf, title, rng)
            answer = f"Watch {described(following)}"
            if following.series is not None and following.series == title.series:
                answer = f"Go on with {described(following)}"
            return exchange(fill(ASK_NEXT, rng, name=title.name), answer), following
        case "genre":
            genre = str(rng.choice(list(shelf.by_genre)))
            found = pick(shelf.by_genre[genre], rng)
            return exchange(fill(ASK_GENRE, rng, genre=genre), f"I recommend {described(found)}"), found
        case "plot":
            return exchange(fill(ASK_PLOT, rng, name=title.name), title.plot), title
        case "kind":
            answer = f"{title.name} is {' and '.join(title.genres)}, from {title.year}."
            return exchange(fill(ASK_KIND, rng, name=title.name, genre=genre), answer), title
        case _:
            age = int(rng.integers(4, 18))
            return exchange(fill(ASK_AGE, rng, name=title.name, age=age), age_answer(title, age)), title


def tool_turn(shelf: Shelf, title: Title, rng: np.random.Generator) -> tuple[list[Message], Title]:
    """A recommendation that the assistant looks up first."""
    genre = title.genres[0]
    place = int(rng.integers(len(shelf.by_genre[genre])))
    found = shelf.by_genre[genre][place : place + 3]
    call = {"type": "function", "function": {"name": "find_titles", "arguments": {"genre": genre}}}
    result = json.dumps([{"title": one.name, "maturity": one.maturity} for one in found], ensure_ascii=False)
    return [
        {"role": "user", "content": fill(ASK_GENRE, rng, genre=genre)},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "find_titles", "content": result},
        {"role": "assistant", "content": f"I recommend {described(found[0])}"},
    ], found[0]


def next_title(shelf: Shelf, title: Title, rng: np.random.Generator) -> Title:
    """The next part, or else something of the same genre and no higher maturity."""
    following = shelf.by_part.get((title.series or "", title.part + 1))
    if following is not None:
        return following
    limit = MATURITY.index(title.maturity)
    alike = [one for one in shelf.by_genre[title.genres[0]] if MATURITY.index(one.maturity) <= limit]
    others = [one for one in alike if one.part == 1 and one.id != title.id]
    return pick(others or shelf.titles, rng)


def described(title: Title) -> str:
    article = "an" if title.genres[0][0] in "aeiou" else "a"
    rating = "for all ages" if title.maturity == "all" else f"rated {title.maturity}"
    return f"{title.name}, {article} {' and '.join(title.genres)} title from {title.year}, {rating}."


def age_answer(title: Title, age: int) -> str:
    least = AGES[MATURITY.index(title.maturity)]
    if least == 0:
        return f"Yes, {title.name} is for all ages."
    return f"{'Yes' if age >= least else 'No'}, {title.name} is rated {title.maturity}."


def exchange(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def fill(forms: Sequence[str], rng: np.random.Generator, **values: object) -> str:
    return forms[int(rng.integers(len(forms)))].format(**values)


def pick(titles: Sequence[Title], rng: np.random.Generator) -> Title:
    return titles[int(rng.integers(len(titles)))]
