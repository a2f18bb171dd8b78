"""Which tokens of fields that stand beside each other become one? The most frequent: byte-pair encoding.

A side is what stands before an item, or after it, in one event; no pair reaches beyond a side.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise

Side = tuple[str, ...]
Pair = tuple[str, str]


def joined(left: str, right: str) -> str:
    """<|device=tv|> and <|hour=20|> are <|device=tv|hour=20|>; no label has a | in it."""
    return f"{left.removesuffix('|>')}|{right.removeprefix('<|')}"


def merged(side: Side, ranks: Mapping[Pair, int]) -> Side:
    """The side with its pairs joined, those that were learnt first before others."""
    while len(side) > 1:
        rank, at = min((ranks.get(pair, len(ranks)), at) for at, pair in enumerate(pairwise(side)))
        if rank == len(ranks):
            break
        side = _with(side, at)
    return side


def learn(sides: Mapping[Side, int], count: int, may_join: Callable[[str, str], bool]) -> list[Pair]:
    """At most `count` pairs, each the most frequent after those before it; of equals the first by name.

    sides: how often each occurs. A pair that occurs once is none.
    """
    words, times = list(sides), list(sides.values())
    counts: Counter[Pair] = Counter()
    holding: defaultdict[Pair, set[int]] = defaultdict(set)

    def add(number: int, sign: int) -> None:
        for pair in pairwise(words[number]):
            if may_join(*pair):
                counts[pair] += sign * times[number]
                holding[pair].add(number)

    for number in range(len(words)):
        add(number, 1)
    found: list[Pair] = []
    while len(found) < count and counts:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] < 2:
            break
        found.append(best)
        for number in sorted(holding.pop(best)):
            pairs = list(pairwise(words[number]))
            if best in pairs:
                add(number, -1)
                words[number] = _with(words[number], pairs.index(best))
                add(number, 1)
        del counts[best]
    return found


def _with(side: Side, at: int) -> Side:
    """The tokens at this place and the next one joined. A pair is in a side once."""
    return (*side[:at], joined(side[at], side[at + 1]), *side[at + 2 :])
