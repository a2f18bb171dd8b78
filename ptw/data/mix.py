"""Which part of a mix gives the next sample, so that after any number of them each has had its share?"""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Integers in the same ratios, exactly as the weights are written: 0.1 is a tenth."""
    fractions = [Fraction(str(weight)) for weight in weights]
    scale = lcm(*(fraction.denominator for fraction in fractions))
    return tuple(int(fraction * scale) for fraction in fractions)


def turn(weights: Sequence[int], given: Sequence[int]) -> int:
    """Whose turn it is after each has given so many: never one that is ahead of its share.

    Of the others it is the one that would be behind by a whole sample the soonest. So every part is always
    within one sample of its share, whatever the weights (Baruah et al., Proportionate progress, 1996).
    """
    total, count = sum(weights), sum(given) + 1
    owed = [at for at, weight in enumerate(weights) if given[at] * total < count * weight]
    # the number of samples by which its next one is due, rounded up
    return min(owed, key=lambda at: -(-(given[at] + 1) * total // weights[at]))
