"""Into which ranges of length do samples fall, so that a screen shows them and the window is a border?"""

import math
from collections import Counter
from dataclasses import dataclass

BINS = 14  # about; where lengths lie far apart each is half as long again as the one before
SPREAD = 8  # times the shortest half: from here on lengths lie far apart


@dataclass(frozen=True)
class Bin:
    """`count` samples of `low` to `high` ids; `over`: longer than the window; `share` of the fullest bin."""

    low: int
    high: int
    count: int
    over: bool
    share: float


def histogram(lengths: Counter[int], window: int) -> list[Bin]:
    """Bins without a gap from the shortest to the longest; none where there is no sample."""
    if not lengths:
        return []
    shortest, longest = min(lengths), max(lengths)
    edges = _bordered(_edges(shortest, longest, _median(lengths)), shortest, longest, window + 1)
    counts = [0] * (len(edges) - 1)
    for length, count in lengths.items():
        counts[_place(edges, length)] += count
    most = max(counts)
    return [
        Bin(low, high - 1, count, low > window, count / most)
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _bordered(edges: list[int], shortest: int, longest: int, border: int) -> list[int]:
    """The edges with one where lengths begin that don't fit the window; none stands close to it."""
    if border <= shortest:
        return [max(edges[0], border), *edges[1:]]
    if border > longest:
        return edges
    inner = [edge for edge in edges[1:-1] if abs(edge - border) > 1]
    return sorted([edges[0], *inner, border, edges[-1]])


def _edges(shortest: int, longest: int, median: int) -> list[int]:
    """Where bins begin, and where the last one ends."""
    if longest <= SPREAD * max(median, 1):
        step = _round((longest - shortest + 1) / BINS)
        first = shortest // step * step
        return list(range(first, longest + step + 1, step))
    edges = [0, 1]
    while edges[-1] <= longest:  # 1, 2, 3, 4, 6, 8, 12 ...
        power = 2 ** (len(edges) // 2 - 1)
        edges.append(2 * power if len(edges) % 2 == 0 else 3 * power)
    begin = max(at for at, edge in enumerate(edges) if edge <= shortest)
    return edges[begin:]


def _round(width: float) -> int:
    """A round number that is at least so much."""
    power = 10 ** math.floor(math.log10(max(width, 1)))
    return next(
        math.ceil(power * factor) for factor in (1, 2, 2.5, 5, 10) if math.ceil(power * factor) >= width
    )


def _place(edges: list[int], length: int) -> int:
    return next(at for at in range(len(edges) - 1) if length < edges[at + 1])


def _median(lengths: Counter[int]) -> int:
    half, upto = lengths.total() / 2, 0
    for length in sorted(lengths):
        upto += lengths[length]
        if upto >= half:
            return length
    raise AssertionError("there is at least one sample")
