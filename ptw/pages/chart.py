"""How do measured points become lines or bars on a page, however many they are?"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MOST_POINTS = 400  # of a line; more are averaged, beside the band that they lie in
MOST_BARS = 120  # more are averaged
MOST_OVER_MEDIAN = 4  # bars higher than so many times the middle one are cut off
BAR = 0.84  # of the room that a bar has
WIDTH, HEIGHT = 1000.0, 100.0  # of the drawing, which is stretched to its place
TICKS = 4
MARGIN = 0.06  # of the range, above and below

Text = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """Points by x; `series` is the number of its colour."""

    name: str
    points: Sequence[tuple[float, float]]
    series: int = 0


@dataclass(frozen=True)
class Chart:
    """As the template draws it: a path of each line and band, ticks in percent, points for whoever hovers."""

    title: str
    note: str
    axis: str
    paths: tuple[tuple[int, str, str, str], ...]  # series, line, band, dots
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    marks: tuple[float, ...]  # vertical lines
    range: tuple[float, float]
    points: tuple[dict[str, Any], ...]
    bars: tuple[tuple[int, str], ...] = ()  # series, and all its bars as one path


def drawn(
    title: str, lines: Iterable[Line], text: Text, *, axis: str = "step", note: str = "", marks: Any = ()
) -> Chart | None:
    """None where there is nothing to draw: no line has a finite point. `marks`: places on the x axis."""
    kept = [Line(line.name, _finite(line.points), line.series) for line in lines]
    kept = [line for line in kept if line.points]
    if not kept:
        return None
    xs = [x for line in kept for x, _ in line.points]
    ys = [y for line in kept for _, y in line.points]
    left, right = min(xs), max(xs)
    low, high = _padded(min(ys), max(ys))
    reduced = [(line, _reduced(line.points)) for line in kept]

    def place(x: float, y: float) -> str:
        across = WIDTH / 2 if right == left else WIDTH * (x - left) / (right - left)
        return f"{across:.1f},{HEIGHT * (high - y) / (high - low):.2f}"

    return Chart(
        title=title,
        note=note,
        axis=axis,
        paths=tuple((line.series, *_paths(points, place)) for line, points in reduced),
        x_ticks=tuple((100 * _share(x, left, right), f"{x:,g}") for x in _ticks(left, right)),
        y_ticks=tuple((100 * (1 - _share(y, low, high)), text(y)) for y in _ticks(low, high)),
        marks=tuple(100 * _share(x, left, right) for x in marks if left < x < right),
        range=(left, right),
        points=tuple(_told(line, points, text) for line, points in reduced),
    )


def stacked(
    title: str, lines: Sequence[Line], text: Text, *, axis: str = "step", note: str = "", marks: Any = ()
) -> Chart | None:
    """Lines of the same x, each on top of those before it, as bars from 0; None where there is nothing.

    A bar far above the others is cut off, so that one sees these too.
    """
    kept = [Line(line.name, _finite(line.points), line.series) for line in lines]
    assert len({tuple(x for x, _ in line.points) for line in kept}) <= 1, "parts of the same wholes"
    if not kept or not kept[0].points:
        return None
    reduced = [(line, _reduced(line.points, MOST_BARS)) for line in kept]
    xs = [x for x, *_ in reduced[0][1]]
    room = min((b - a for a, b in pairwise(xs)), default=1.0)
    left, right = xs[0] - room / 2, xs[-1] + room / 2
    totals = [math.fsum(column) for column in zip(*(_means(points) for _, points in reduced), strict=True)]
    high = min(max(totals), MOST_OVER_MEDIAN * statistics.median(totals)) * (1 + MARGIN) or 1.0
    bars, floor = [], [0.0] * len(xs)
    for line, points in reduced:
        top = [below + mean for below, mean in zip(floor, _means(points), strict=True)]
        sides = [(WIDTH * _share(x + side * room * BAR / 2, left, right)) for x in xs for side in (-1, 1)]
        levels = [max(0.0, HEIGHT * (1 - y / high)) for pair in zip(floor, top, strict=True) for y in pair]
        boxes = zip(sides[::2], sides[1::2], levels[::2], levels[1::2], strict=True)
        bars.append(
            (line.series, " ".join(f"M{a:.1f},{y:.2f} H{b:.1f} V{z:.2f} H{a:.1f} Z" for a, b, y, z in boxes))
        )
        floor = top
    return Chart(
        title=title,
        note=note,
        axis=axis,
        paths=(),
        x_ticks=tuple((100 * _share(x, left, right), f"{x:,g}") for x in _ticks(left, right)),
        y_ticks=tuple((100 * (1 - y / high), text(y)) for y in _ticks(0.0, high)),
        marks=tuple(100 * _share(x + room / 2, left, right) for x in marks if left < x < right),
        range=(left, right),
        points=tuple(_told(line, points, text) for line, points in reduced),
        bars=tuple(bars),
    )


Bucket = tuple[float, float, float, float]  # x, mean, lowest, highest


def _means(points: Sequence[Bucket]) -> list[float]:
    return [mean for _, mean, _, _ in points]


def _told(line: Line, points: Sequence[Bucket], text: Text) -> dict[str, Any]:
    return {
        "name": line.name,
        "series": line.series,
        "x": [x for x, *_ in points],
        "text": [text(mean) for _, mean, _, _ in points],
    }


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _reduced(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[Bucket]:
    """Neighbours together: the last one's x, and their mean between the lowest and the highest."""
    size = -(-len(points) // most)
    found = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        values = [y for _, y in part]
        found.append((part[-1][0], math.fsum(values) / len(values), min(values), max(values)))
    return found


def _paths(points: Sequence[Bucket], place: Callable[[float, float], str]) -> tuple[str, str, str]:
    """The line, the band where points were put together, and dots where they are few."""
    line = "M" + " L".join(place(x, mean) for x, mean, _, _ in points)
    band = ""
    if any(low != high for *_, low, high in points):
        up = [place(x, high) for x, _, _, high in points]
        down = [place(x, low) for x, _, low, _ in reversed(points)]
        band = "M" + " L".join(up + down) + " Z"
    # a line of no length with round ends is a dot, however the drawing is stretched
    dots = " ".join(f"M{place(x, mean)} h0" for x, mean, _, _ in points) if len(points) <= 30 else ""
    return line, band, dots


def _padded(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * MARGIN or abs(high) * MARGIN or 1.0
    # what is never negative has no room below zero
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _share(value: float, low: float, high: float) -> float:
    return 0.5 if high == low else round((value - low) / (high - low), 4)


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers inside."""
    if high == low:
        return [low]
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]
