"""Whatever stands in a row, a file or a state: a PtwError with the place, or each row accounted for."""

import pytest

from benchmarks.corrupted import outcome_of


def test_nothing_is_lost_unsaid() -> None:
    outcomes = [outcome_of(seed) for seed in range(150)]
    assert not [outcome for outcome in outcomes if outcome.ended not in ("refused", "read")]
    assert {outcome.ended for outcome in outcomes} == {"refused", "read"}


@pytest.mark.slow
def test_nothing_is_lost_unsaid_in_thousands() -> None:
    outcomes = (outcome_of(seed) for seed in range(1000, 6000))
    assert not [outcome for outcome in outcomes if outcome.ended not in ("refused", "read")]
