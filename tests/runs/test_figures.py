"""What is said of some steps together is weighted by their time, and a dash where nobody knows."""

import pytest

from ptw.runs.figures import Figures

FAST = {"tokens": 300, "seconds": 1.0, "feed_seconds": 0.5, "mfu": 0.5, "packing": 1.0, "memory_bytes": 4}
SLOW = {"tokens": 100, "seconds": 3.0, "feed_seconds": 0.5, "mfu": 0.1, "packing": 0.5, "memory_bytes": 7}


def test_figures_are_over_the_time_of_all_steps() -> None:
    found = Figures.of([FAST, SLOW])
    assert found.tokens_per_second == 100
    assert found.mfu == pytest.approx(0.2)
    assert found.packing == pytest.approx(400 / 500)
    assert found.waiting == 0.25
    assert found.memory_bytes == 7


def test_what_nobody_knows_is_a_dash() -> None:
    older = {"tokens": 300, "seconds": 1.0, "mfu": None}
    assert list(Figures.of([older]).texts().values()) == ["300", "-", "-", "-", "-"]
    assert set(Figures.of([]).texts().values()) == {"-"}
    assert Figures.of([older, SLOW]).mfu == pytest.approx(0.1)
