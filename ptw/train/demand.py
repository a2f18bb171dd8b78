"""Which values may a setting have? PtwError names the key and the value."""

import math
from typing import NoReturn

from ptw.errors import PtwError
from ptw.train.plan import Plan


def positive(**values: int) -> None:
    for key, value in values.items():
        if value < 1:
            raise PtwError(f"settings: {key} = {value}: it must be 1 or more")


def at_least(least: float, **values: float) -> None:
    for key, value in values.items():
        if not (math.isfinite(value) and value >= least):
            raise PtwError(f"settings: {key} = {value}: it must be {least:g} or more")


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


def inside(**values: float) -> None:
    for key, value in values.items():
        if not 0 < value < 1:
            raise PtwError(f"settings: {key} = {value}: it must be more than 0, and less than 1")


def share(**values: float) -> None:
    for key, value in values.items():
        if not 0 <= value <= 1:
            raise PtwError(f"settings: {key} = {value}: it must be from 0 to 1")


def only_with(key: str, needed: object, found: object, **values: float) -> None:
    """Where `key` is not what they need, these must stay 0: a setting without an effect misleads."""
    for name, value in values.items():
        if value and found != needed:
            raise PtwError(
                f"settings: {name} = {value}: it has an effect with {key} = {needed} only, "
                f"and {key} is {found}; set {name} = 0"
            )


def format_of_data(plan: Plan, format: str, setting: str) -> None:
    """What this setting makes of a recipe reads only datasets of one format."""
    for entry in {plan.dataset, plan.eval_dataset} - {None}:
        for share in plan.datasets[str(entry)].parts:
            if share.dataset.format != format:
                found = f"{share.dataset.name} has format {share.dataset.format}"
                raise PtwError(
                    f"settings: {setting}: it learns from datasets of format {format}, and {found}"
                )


def refuse(key: str, value: object, why: str) -> NoReturn:
    raise PtwError(f"settings: {key} = {value}: {why}")
