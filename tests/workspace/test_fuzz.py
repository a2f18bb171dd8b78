"""Whatever stands in workspace.toml: a workspace or a PtwError, never another exception."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ptw.errors import PtwError
from ptw.workspace import manifest
from ptw.workspace.check import problems
from ptw.workspace.document import read_document
from ptw.workspace.schema import schema_text
from tests.workspace.conftest import GOOD, fill
from tests.workspace.toml_text import written

SCHEMA = json.loads(schema_text())
WORDS = sorted(
    {*SCHEMA["properties"], *(key for part in SCHEMA["$defs"].values() for key in part.get("properties", {}))}
)
NAMES = [
    "scratch",
    "local",
    "titles",
    "words",
    "viewings",
    "chats",
    "gpus",
    "first",
    "own",
    "data/items.jsonl",
]

texts = st.one_of(
    st.sampled_from([*WORDS, *NAMES, "", ".", "/", "..", "~", "*", "**", "[", "s3://"]), st.text(max_size=8)
)
leaves: Any = st.one_of(texts, st.integers(), st.floats(), st.booleans(), st.just(2**70))
trees = st.recursive(
    leaves,
    lambda part: st.one_of(st.lists(part, max_size=3), st.dictionaries(texts, part, max_size=4)),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples: each overwrites workspace.toml."""
    return fill(tmp_path_factory.mktemp("fuzz"))


def judge(root: Path, data: bytes) -> None:
    """Read it, and hold whatever is told to what every problem must have."""
    (root / "workspace.toml").write_bytes(data)
    found, told = outcome(problems, root)
    assert found is not None or "workspace.toml" in told
    for problem in found or []:
        assert problem.file == "workspace.toml"
        assert 1 <= problem.line <= data.count(b"\n") + 1
        assert problem.key
        assert problem.message
        assert "\n" not in problem.value
    workspace, told = outcome(manifest.read, root)
    assert (workspace is not None) == (found == [])
    assert all(str(problem) in told for problem in found or [])


def outcome(function: Callable[[Path], Any], root: Path) -> tuple[Any, str]:
    """What it gives, or else the message of its PtwError."""
    try:
        return function(root), ""
    except PtwError as error:
        return None, str(error)


@given(st.text())
def test_any_text(shared: Path, text: str) -> None:
    judge(shared, text.encode("utf-8", "surrogatepass"))


@given(st.binary())
def test_any_bytes(shared: Path, data: bytes) -> None:
    judge(shared, data)


@given(st.dictionaries(st.one_of(st.sampled_from(list(SCHEMA["properties"])), texts), trees, max_size=5))
@settings(max_examples=200)
def test_any_structure(shared: Path, document: dict[str, Any]) -> None:
    judge(shared, written(document, tables=True).encode())


@st.composite
def mutated_structures(draw: st.DrawFn) -> dict[str, Any]:
    """A right document in which some values, anywhere, are others, or have other keys beside them."""
    document = tomllib.loads(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        place = document
        while draw(st.booleans()) or place is document:
            inner = [part for part in place.values() if isinstance(part, dict)]
            if not inner:
                break
            place = draw(st.sampled_from(inner))
        key = draw(st.one_of(st.sampled_from([*place, *WORDS]), texts))
        if draw(st.booleans()):
            place.pop(key, None)
        else:
            place[key] = draw(trees)
    return document


@given(mutated_structures())
@settings(max_examples=300)
def test_any_change_of_a_right_structure(shared: Path, document: dict[str, Any]) -> None:
    judge(shared, written(document, tables=True).encode())


@given(st.integers(0, len(GOOD)), st.integers(0, 12), st.text("[]{}\"'\\=.,#\n\r\t\0abc1e+-_é", max_size=5))
@settings(max_examples=300)
@example(0, 0, "\ufeff")
def test_any_change_of_a_right_text(shared: Path, start: int, length: int, text: str) -> None:
    judge(shared, (GOOD[:start] + text + GOOD[start + length :]).encode())


def test_the_right_text_is_right(shared: Path) -> None:
    (shared / "workspace.toml").write_text(GOOD)
    assert read_document(shared).values == tomllib.loads(GOOD)
    assert problems(shared) == []
