"""Every key of a TOML text is found on the line where it stands."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptw.workspace.lines import key_lines, line_of
from tests.workspace.toml_text import written

TEXT = '''# a comment = 1
top = 1 # [not.a.table]
"quoted.key" = "# not a comment"
a.b."c d" = 2
'literal' = 'x = [1'

[table]
many = """
[no.table]
key = 1
" "" \\""" end"""
single = \'\'\'
''two\'\'\'
list = [
  1, # ]
  [2,
   3],
  {x = 1, y.z = [
     "]"]},
]
inline = {one = 1, "two" = {three = 3}}

[[rows]]
name = "first"
[[rows]]
name = "second"
[rows.part]
deep = true
[[rows.sub]]
n = 1
[[rows.sub]]
n = 2
[late.sub.table]
x = 1
[late]
y = 2
"esc\\u0041ped" = 1979-05-27 07:32:00
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("quoted.key",), 3),
        (("a", "b", "c d"), 4),
        (("literal",), 5),
        (("table",), 7),
        (("table", "many"), 8),
        (("table", "single"), 12),
        (("table", "list"), 14),
        (("table", "list", 0), 15),
        (("table", "list", 1, 1), 17),
        (("table", "list", 2, "x"), 18),
        (("table", "list", 2, "y", "z", 0), 19),
        (("table", "inline", "two", "three"), 21),
        (("rows", 0, "name"), 24),
        (("rows", 1, "name"), 26),
        (("rows", 1, "part", "deep"), 28),
        (("rows", 1, "sub", 1, "n"), 32),
        (("late", "sub", "table", "x"), 34),
        (("late",), 35),
        (("late", "escAped"), 37),
    ],
)
def test_a_key_has_its_line(path: tuple[str | int, ...], line: int) -> None:
    assert key_lines(TEXT)[path] == line


def test_every_key_of_the_text_is_found() -> None:
    assert set(key_lines(TEXT)) == set(paths(tomllib.loads(TEXT)))


def test_a_key_that_is_missing_has_the_line_of_its_table() -> None:
    assert line_of(key_lines(TEXT), ("late", "nothing")) == 35
    assert line_of(key_lines(TEXT), ("nothing",)) == 1


def test_windows_line_ends_count_once() -> None:
    assert key_lines("a = 1\r\n[b]\r\nc = 2\r\n")[("b", "c")] == 3


keys = st.text("ab-_.\"'\\ =[]#\n\té😀", max_size=4)
values: Any = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-99, 99),
        st.text("ab\"'\\#[]{},=\n é", max_size=6),
        st.just(1.5),
        st.just("'''"),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(keys, values, max_size=4), st.booleans())
def test_what_tomllib_reads_is_found_whole(document: dict[str, Any], tables: bool) -> None:
    text = written(document, tables)
    assert tomllib.loads(text) == document
    lines = key_lines(text)
    assert set(lines) == set(paths(document))
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in parts for place in ((*path, key), *paths(part, (*path, key)))]
