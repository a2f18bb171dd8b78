"""An author's tools: they write one file, and say what is wrong with a call."""

from pathlib import Path
from typing import Any

import pytest

from ptw.agent.desk import TOOLS, Desk, digest
from ptw.agent.judging import Verdict
from ptw.agent.reading.pages import Page


def never(text: str) -> Verdict:
    raise AssertionError("nobody asked for acceptance")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    pages = [Page("port.md", "a page\nof two lines"), Page("models/llama.py", "class Config:\n    a = 1\n")]
    return Desk("mistral", tmp_path, pages, never, 4)


def test_it_writes_and_edits_one_file(desk: Desk, tmp_path: Path) -> None:
    whole = digest("a = 1\nb = 2\n")
    assert desk.act("write", {"text": "a = 1\nb = 2"}).stable == f"wrote {whole}"
    shown = "written: 2 lines; it now says\n   1  a = 1\n   2  b = 3"
    assert desk.act("edit", {"old": "b = 2", "new": "b = 3"}).text == shown
    assert desk.text == "a = 1\nb = 3\n"
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.py")] == [Path("models/mistral.py")]
    assert (
        "line 1" in desk.act("write", {"text": "def"}).text
    )  # it is no Python, and stands there all the same


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("shell", {"command": "ls"}, "no tool 'shell'; there are: read"),
        ("read", {"path": "../../etc/passwd"}, "not on the reading list"),
        ("read", {}, "'path' is a required property"),
        ("read", {"path": "port.md", "whence": 1}, "'whence' was unexpected"),
        ("read", "Expecting ',' delimiter", "are not JSON"),
        ("search", {"pattern": "("}, "no regular expression"),
        ("edit", {"old": "c = 4", "new": ""}, "does not stand in models/mistral.py"),
        ("edit", {"old": " = ", "new": ""}, "stands in models/mistral.py 2 times"),
        ("edit", {"old": "", "new": "x"}, "is empty"),
        ("write", {"text": "#" * 70_000}, "at most 60000"),
        ("locate", {}, "call practice first"),
        ("case", {"name": "00-plain"}, "practice has no case"),
    ],
)
def test_a_call_that_is_wrong_is_told_what_would_do(desk: Desk, name: str, arguments: Any, said: str) -> None:
    before = "a = 1\nb = 2\n"
    desk.act("write", {"text": before})
    result = desk.act(name, arguments)
    assert result.text.startswith("error: ")
    assert said in result.text
    assert desk.text == before


def test_it_reads_and_searches_the_reading_list_and_the_port(desk: Desk) -> None:
    desk.act("write", {"text": "a = 1"})
    assert desk.act("read", {"path": "port.md", "start": 2}).text == "   2  of two lines"
    assert desk.act("read", {"path": "models/mistral.py"}).text == "   1  a = 1"
    found = desk.act("search", {"pattern": r"a = \d"}).text
    assert found == "models/llama.py:2: a = 1\nmodels/mistral.py:1: a = 1"


def test_a_near_miss_is_shown(desk: Desk) -> None:
    desk.act("write", {"text": "x = 1\nquery = rotate(query)\n"})
    assert "line 2" in desk.act("edit", {"old": "query = rotate(querry)", "new": ""}).text


def test_every_tool_says_what_it_takes() -> None:
    for tool in TOOLS:
        function = tool.schema["function"]
        assert function["description"]
        assert "optional" not in str(function)
