"""What is said of some steps together is weighted by their time, and a dash where nobody knows."""

import pytest

from ptw.runs.figures import Figures, own_figures, times

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


RL = [
    {
        "kind": "train",
        "step": 1,
        "seconds": 2.0,
        "loss": 0.1,
        "reward": 0.5,
        "generate_seconds": 5.0,
        "digest": "a",
    },
    {
        "kind": "train",
        "step": 2,
        "seconds": 1.0,
        "loss": 0.1,
        "reward": 0.7,
        "generate_seconds": 2.0,
        "digest": "b",
    },
]


def test_what_a_recipe_says_of_its_own_is_found() -> None:
    assert own_figures(RL[1]) == {"reward": 0.7, "generate_seconds": 2.0}
    assert own_figures({"kind": "train", "step": 1, "loss": 0.1, "mfu": None, "total": 3}) == {}


def test_where_the_time_went() -> None:
    assert times(RL) == {"learn": 0.3, "generate": 0.7}
    assert times([{"step": 1, "seconds": 2.0, "loss": 0.1}]) == {}
