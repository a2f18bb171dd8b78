"""The loop on what LLMs do wrong: idle, cut off, withheld, too long, too dear. The endpoint is scripted."""

import json
from pathlib import Path
from typing import Any

import pytest

from ptw.agent import prompt
from ptw.agent.conversation import Conversation
from ptw.agent.desk import TOOLS, Desk
from ptw.agent.judging import Verdict
from ptw.agent.llm import Llm, Price
from ptw.agent.loop import Accepted, Limits, Loop, Stopped, keep_draft, restore
from ptw.agent.reading.pages import Page
from tests.agent.conftest import Answer, Endpoint, refusal, reply

PRICE = Price(3e-6, 3e-6, 15e-6)
LIMITS = Limits(budget_usd=5.0, max_steps=20, max_minutes=10.0)
READ = ("read", {"path": "port.md"})
Tell = list[dict[str, Any]]


def unasked(text: str) -> Verdict:
    raise AssertionError("nobody asked for acceptance")


def verdict(passed: bool, level: str = "acceptance") -> Verdict:
    entry = {
        "verifier": "logits",
        "metric": "relative",
        "value": 1.0,
        "limit": 1e-10,
        "case": "a",
        "passed": passed,
    }
    port = {"cases": 1, "measured": [entry], "words": [], "notes": [], "refused": [], "failures": []}
    report = {"passed": passed, "seed": 1, "ports": [port]}
    return Verdict(level, passed, () if passed else ("logits",), report)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk("mistral", tmp_path / "work", [Page("port.md", "what there is")], unasked, 2)


def loop(tmp_path: Path, desk: Desk, endpoint: Endpoint, limits: Limits = LIMITS) -> Loop:
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    desk.file.parent.mkdir(parents=True, exist_ok=True)
    talk = Conversation.opened(folder)
    if not talk.entries:
        first = prompt.messages(desk.name, "mistral", "", desk.pages)
        digests = prompt.digests(first, [tool.schema for tool in TOOLS])
        talk.append("prompt", messages=first, digests=digests, draft=keep_draft(talk, desk))
    llm = Llm("openai/by-hand", PRICE, endpoint.url, waits=(0.0,))
    return Loop(talk, desk, llm, limits, lambda entry: None)


def stopped(
    tmp_path: Path, desk: Desk, endpoint: Endpoint, limits: Limits = LIMITS
) -> tuple[str, Conversation]:
    made = loop(tmp_path, desk, endpoint, limits)
    with pytest.raises(Stopped) as why:
        made.run()
    return str(why.value), made.talk


def test_each_result_goes_back_under_its_call(tmp_path: Path, desk: Desk, endpoint: Endpoint) -> None:
    endpoint.says(
        [reply("first", READ, ("search", {"pattern": "there"})), reply("then", ("write", {"text": "a = 1"}))]
    )
    why, talk = stopped(tmp_path, desk, endpoint, Limits(5.0, 2, 10.0))
    assert why == "2 steps, which is the limit (max_steps)"
    sent = endpoint.asked[1]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool", "tool"]
    assert [call["id"] for call in sent[2]["tool_calls"]] == [message["tool_call_id"] for message in sent[3:]]
    assert sent[3]["content"] == "   1  what there is"
    assert sent[:2] == endpoint.asked[0]["messages"]  # the history only grows
    assert desk.text == "a = 1\n"
    assert talk.steps == 2


def test_text_alone_is_answered_and_then_ends_it(tmp_path: Path, desk: Desk, endpoint: Endpoint) -> None:
    endpoint.says([reply("I am done."), reply("As I said."), reply("Really.")])
    why, _ = stopped(tmp_path, desk, endpoint)
    assert "called no tool" in why
    assert endpoint.asked[1]["messages"][-1] == {"role": "user", "content": prompt.NO_TOOL}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply("", ("edit", '{"old": "a = 1", "ne'), finish="length"), prompt.CUT_OFF),
        (reply("so much to s", finish="length"), prompt.CUT_OFF),
        (reply("", finish="content_filter"), prompt.FILTERED),
        (reply("", ("edit", '{"old": "a = 1", "ne')), "are not JSON"),
        (reply("", ("edit", "[1]")), "must be an object"),
        (reply("", ("shell", {"command": "ls"})), "no tool 'shell'"),
        (reply("", ("edit", {"old": "x"})), "'new' is a required property"),
    ],
)
def test_what_can_not_be_done_is_said_and_work_goes_on(
    tmp_path: Path, desk: Desk, endpoint: Endpoint, answer: Answer, said: str
) -> None:
    endpoint.says([answer, reply("", ("write", {"text": "b = 2"}))])
    stopped(tmp_path, desk, endpoint, Limits(5.0, 2, 10.0))
    sent = endpoint.asked[1]["messages"]
    assert said in sent[-1]["content"]
    for message in sent:  # providers refuse a history that has arguments which are no JSON
        for call in message.get("tool_calls") or []:
            json.loads(call["function"]["arguments"])
    assert desk.text == "b = 2\n"


def test_the_budget_is_asked_before_each_call(tmp_path: Path, desk: Desk, endpoint: Endpoint) -> None:
    dear = {"prompt_tokens": 100_000, "completion_tokens": 4_000}
    endpoint.says([reply("", READ, **dear) for _ in range(9)])
    why, talk = stopped(tmp_path, desk, endpoint, Limits(1.0, 20, 10.0))
    assert "budget_usd" in why
    assert talk.usd == pytest.approx(len(endpoint.asked) * 0.36)
    assert talk.usd <= 1.0
    assert len(endpoint.asked) == 2


def test_a_dead_endpoint_can_be_gone_on_from(tmp_path: Path, desk: Desk, endpoint: Endpoint) -> None:
    endpoint.says([reply("", ("write", {"text": "a = 1"})), refusal(500, "down"), refusal(500, "down")])
    why, talk = stopped(tmp_path, desk, endpoint)
    assert "--resume run" in why
    endpoint.says([reply("", ("edit", {"old": "a = 1", "new": "a = 2"}))])
    desk.file.unlink()
    restore(Conversation.opened(talk.folder), desk)
    stopped(tmp_path, desk, endpoint, Limits(5.0, 2, 10.0))
    assert desk.text == "a = 2\n"
    assert len(endpoint.asked) == 1  # what was paid for is not asked again
    assert len(endpoint.asked[0]["messages"]) == 4


def test_a_call_that_was_killed_is_done_again(tmp_path: Path, desk: Desk, endpoint: Endpoint) -> None:
    """The reply is on disk, its result is not: nothing is asked, the text is as before the call."""
    edit = ("edit", {"old": "a = 1", "new": "a = 1\na = 1"})  # which a second time would find twice
    endpoint.says([reply("", ("write", {"text": "a = 1"})), reply("", edit)])
    _, talk = stopped(tmp_path, desk, endpoint, Limits(5.0, 2, 10.0))
    lines = (talk.folder / "steps.jsonl").read_text().splitlines(keepends=True)
    assert '"edit"' in lines[-1]
    (talk.folder / "steps.jsonl").write_text("".join(lines[:-1]))
    again = Conversation.opened(talk.folder)
    restore(again, desk)
    assert desk.text == "a = 1\n"
    endpoint.says([])
    stopped(tmp_path, desk, endpoint, Limits(5.0, 2, 10.0))
    assert desk.text == "a = 1\na = 1\n"
    assert not endpoint.asked


def test_a_conversation_that_is_too_long_begins_a_new_chapter(
    tmp_path: Path, desk: Desk, endpoint: Endpoint
) -> None:
    long = refusal(400, "This model's maximum context length is 100 tokens")
    endpoint.says([reply("", ("write", {"text": "a = 1"})), long, reply("", READ)])
    _, talk = stopped(tmp_path, desk, endpoint, Limits(5.0, 2, 10.0))
    sent = endpoint.asked[2]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "user"]
    assert "a = 1" in sent[2]["content"]
    assert talk.usd == pytest.approx(2 * (1000 * 3e-6 + 100 * 15e-6))  # what was not answered is not paid


def test_a_prompt_that_is_too_long_ends_it(tmp_path: Path, desk: Desk, endpoint: Endpoint) -> None:
    endpoint.says([refusal(400, "This model's maximum context length is 100 tokens")])
    assert "however short" in stopped(tmp_path, desk, endpoint)[0]


def test_only_the_gate_ends_it_well(
    tmp_path: Path, desk: Desk, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [verdict(True, "practice"), verdict(False, "practice"), verdict(True, "practice")]
    monkeypatch.setattr("ptw.agent.judging.practice", lambda root, name, only: said.pop(0))
    accepts = [verdict(False), verdict(True)]
    desk.accept = lambda text: accepts.pop(0)
    submit = ("submit", {})
    endpoint.says(
        [reply("", ("write", {"text": "a = 1"})), reply("", submit), reply("", submit), reply("", submit)]
    )
    made = loop(tmp_path, desk, endpoint)
    accepted = made.run()
    assert isinstance(accepted, Accepted)
    assert accepted.text == "a = 1\n"
    stable = [entry["stable"] for entry in made.talk.of("result")][1:]
    assert stable == ["rejected", "not submitted: practice failed: logits", "accepted"]
    assert len(made.talk.submissions) == 2


def test_submissions_are_counted(
    tmp_path: Path, desk: Desk, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptw.agent.judging.practice", lambda root, name, only: verdict(True, "practice"))
    desk.accept = lambda text: verdict(False)
    endpoint.says([reply("", ("write", {"text": "a = 1"})), *[reply("", ("submit", {}))] * 9])
    why, _ = stopped(tmp_path, desk, endpoint)
    assert why == "2 acceptances were asked for and none was given"


def test_an_acceptance_on_disk_is_not_believed(
    tmp_path: Path, desk: Desk, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptw.agent.judging.practice", lambda root, name, only: verdict(True, "practice"))
    desk.accept = lambda text: verdict(True)
    endpoint.says([reply("", ("write", {"text": "a = 1"})), reply("", ("submit", {}))])
    made = loop(tmp_path, desk, endpoint)
    made.run()
    desk.accept = lambda text: verdict(False)
    why, _ = stopped(tmp_path, desk, endpoint)
    assert "had been accepted" in why
