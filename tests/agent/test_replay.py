"""A recording: its replies run again, and what comes to something else than then ends it."""

import json
from pathlib import Path

import pytest

from ptw.agent import prompt, replay
from ptw.agent.conversation import Conversation
from ptw.agent.desk import TOOLS, Desk
from ptw.agent.judging import Verdict
from ptw.agent.llm import Llm, Price
from ptw.agent.loop import Limits, Loop, Stopped
from ptw.agent.reading.pages import Page
from ptw.errors import PtwError
from tests.agent.conftest import Endpoint, reply

PRICE = Price(3e-6, 3e-7, 15e-6)
LIMITS = Limits(5.0, 3, 10.0)


def unasked(text: str) -> Verdict:
    raise AssertionError("nobody asked for acceptance")


def begun(folder: Path, page: str = "what there is") -> tuple[Conversation, Desk]:
    folder.mkdir()
    desk = Desk("mistral", folder / "work", [Page("port.md", page)], unasked, 2)
    desk.file.parent.mkdir(parents=True)
    talk = Conversation(folder)
    first = prompt.messages(desk.name, "mistral", "", desk.pages)
    talk.append("prompt", messages=first, digests=prompt.digests(first, [tool.schema for tool in TOOLS]))
    return talk, desk


@pytest.fixture
def recording(tmp_path: Path, endpoint: Endpoint) -> Path:
    """Of three replies, recorded from a conversation with the scripted endpoint."""
    talk, desk = begun(tmp_path / "recorded")
    edit = ("edit", {"old": "a = 1", "new": "a = 2"})
    endpoint.says(
        [
            reply("look", ("read", {"path": "port.md"})),
            reply("", ("write", {"text": "a = 1"})),
            reply("", edit),
        ]
    )
    with pytest.raises(Stopped):
        Loop(talk, desk, Llm("openai/by-hand", PRICE, endpoint.url), LIMITS, lambda entry: None).run()
    file = tmp_path / "recording.jsonl"
    replay.write(replay.record(talk, "mistral", "openai/by-hand", PRICE), file)
    return file


def replayed(
    folder: Path, file: Path, page: str = "what there is"
) -> tuple[str, Desk, Conversation, list[str]]:
    talk, desk = begun(folder, page)
    recorded = replay.Recorded(file, "mistral")
    changed = recorded.follow(talk)
    with pytest.raises(Stopped) as why:
        Loop(talk, desk, recorded, LIMITS, lambda entry: None).run()
    return str(why.value), desk, talk, changed


def test_it_comes_to_what_it_came_to(tmp_path: Path, recording: Path) -> None:
    why, desk, talk, changed = replayed(tmp_path / "again", recording)
    assert (why, desk.text, changed) == ("3 steps, which is the limit (max_steps)", "a = 2\n", [])
    assert talk.usd == pytest.approx(3 * (1000 * 3e-6 + 100 * 15e-6))
    again = replay.record(talk, "mistral", "openai/by-hand", PRICE)
    assert again == [json.loads(line) for line in recording.read_text().splitlines()]


def test_a_reply_may_hold_what_python_alone_takes_for_an_end_of_line(tmp_path: Path, recording: Path) -> None:
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    lines[1]["message"]["content"] = "so\u2028it is\x85"
    replay.write(lines, recording)
    assert replay.Recorded(recording, "mistral").replies == lines[1:]


def test_it_holds_no_reading_and_is_small(recording: Path) -> None:
    assert "what there is" not in recording.read_text()


def test_another_reading_is_said_and_not_refused(tmp_path: Path, recording: Path) -> None:
    assert replayed(tmp_path / "again", recording, "another page")[3] == ["reading"]


@pytest.mark.parametrize(
    ("step", "old", "new"), [(1, "port.md", "gone.md"), (2, "a = 1", "b = 1"), (3, "a = 1", "c")]
)
def test_what_comes_to_something_else_ends_it(
    tmp_path: Path, recording: Path, step: int, old: str, new: str
) -> None:
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    lines[step]["message"] = json.loads(json.dumps(lines[step]["message"]).replace(old, new))
    replay.write([*lines, lines[-1]], recording)  # one more, so that the last one's result is looked at too
    talk, desk = begun(tmp_path / "again")
    recorded = replay.Recorded(recording, "mistral")
    recorded.follow(talk)
    with pytest.raises(PtwError, match=f"step {step} came to something else"):
        Loop(talk, desk, recorded, Limits(5.0, 9, 10.0), lambda entry: None).run()


def test_it_ends_where_the_recording_ends(tmp_path: Path, recording: Path) -> None:
    talk, desk = begun(tmp_path / "again")
    recorded = replay.Recorded(recording, "mistral")
    recorded.follow(talk)
    with pytest.raises(Stopped, match="ends after 3 replies"):
        Loop(talk, desk, recorded, Limits(5.0, 9, 10.0), lambda entry: None).run()


def test_what_is_no_recording_of_this_is_refused(tmp_path: Path, recording: Path) -> None:
    with pytest.raises(PtwError, match="on mistral, not on qwen2"):
        replay.Recorded(recording, "qwen2")
    (tmp_path / "other.jsonl").write_text("{}\n")
    for file in (tmp_path / "other.jsonl", tmp_path / "none.jsonl"):
        with pytest.raises(PtwError, match="no recording"):
            replay.Recorded(file, "mistral")
    head, *rest = recording.read_text().splitlines()
    values = json.loads(head)
    values["prompt"]["tools"] = "others"
    recording.write_text("\n".join([json.dumps(values), *rest]))
    talk, _ = begun(tmp_path / "again")
    with pytest.raises(PtwError, match="other tools"):
        replay.Recorded(recording, "mistral").follow(talk)
