"""Which numbers may a setting have? PtwError names the key and the value."""

import math

from ptw.errors import PtwError


def positive(**values: int) -> None:
    for key, value in values.items():
        if value < 1:
            raise PtwError(f"settings: {key} = {value}: it must be 1 or more")


def not_negative(**values: float) -> None:
    for key, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise PtwError(f"settings: {key} = {value}: it must be 0 or more")


def above_zero(**values: float) -> None:
    for key, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise PtwError(f"settings: {key} = {value}: it must be more than 0")


def part(**values: float) -> None:
    for key, value in values.items():
        if not 0 <= value < 1:
            raise PtwError(f"settings: {key} = {value}: it must be 0 or more, and less than 1")
