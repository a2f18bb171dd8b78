"""What a config.json holds is read, refused by name, or of the wrong kind; nothing is passed over."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ptw.errors import PtwError
from ptw.nn.config import read_config


@dataclass(frozen=True)
class Config:
    width: int = 8
    pad_token_id: int | None = None
    scale: float = 1.0
    cap: float | None = None
    flag: bool = False


def read(**values):
    return read_config(Config, values, derived={}, choices={})


def test_what_fits_is_read():
    values = {"width": 3, "pad_token_id": 0, "scale": 2, "cap": None, "flag": True}
    assert read(**values) == Config(**values)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", 0),
        ("width", 2.0),
        ("width", True),
        ("pad_token_id", -1),
        ("scale", "2"),
        ("cap", True),
        ("flag", 1),
        ("rank", 4),
    ],
)
def test_what_does_not_fit_is_named(key, value):
    with pytest.raises(PtwError, match=key):
        read(**{key: value})


@pytest.mark.parametrize(
    "key", ["attention_dropout", "attn_pdrop", "dropout", "hidden_dropout_prob", "residual_dropout"]
)
def test_no_rate_of_dropout_is_applied(key):
    assert read(**{key: 0.1}) == Config()


def test_a_number_that_is_none_by_default_may_be_none():
    @dataclass(frozen=True)
    class Layers:
        first_dense: int = 0

    assert read_config(Layers, {"first_dense": 0}, derived={}, choices={}) == Layers()
    with pytest.raises(PtwError, match="from 0 on"):
        read_config(Layers, {"first_dense": -1}, derived={}, choices={})
