"""Whatever stands in a row, a file or a state: a PtwError with the place, or nothing is lost or changed."""

import pytest

from benchmarks import corrupted_weights
from benchmarks.corrupted import outcome_of


def test_nothing_is_lost_unsaid() -> None:
    outcomes = [outcome_of(seed) for seed in range(150)]
    assert not [outcome for outcome in outcomes if outcome.ended not in ("refused", "read")]
    assert {outcome.ended for outcome in outcomes} == {"refused", "read"}


def test_no_damaged_checkpoint_gives_other_weights() -> None:
    """Among the seeds are dtypes that a header lies about, and shards that hold one tensor twice."""
    outcomes = [corrupted_weights.outcome_of(seed) for seed in range(220)]
    assert not [outcome for outcome in outcomes if outcome.ended not in ("refused", "read")]
    assert {outcome.ended for outcome in outcomes} == {"refused", "read"}


@pytest.mark.slow
def test_nothing_is_lost_unsaid_in_thousands() -> None:
    outcomes = (outcome_of(seed) for seed in range(1000, 6000))
    assert not [outcome for outcome in outcomes if outcome.ended not in ("refused", "read")]


@pytest.mark.slow
def test_no_damaged_checkpoint_gives_other_weights_in_thousands() -> None:
    outcomes = (corrupted_weights.outcome_of(seed) for seed in range(1000, 6000))
    assert not [outcome for outcome in outcomes if outcome.ended not in ("refused", "read")]
