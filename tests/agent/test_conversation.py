"""A run's entries: what follows from them, also after a crash, and that no secret is among them."""

from pathlib import Path

import pytest

from ptw.agent.conversation import FILE, Conversation

PROMPT = [{"role": "system", "content": "rules"}, {"role": "user", "content": "task"}]


def asked(talk: Conversation, step: int, *calls: str, usd: float = 0.25) -> None:
    talk.append("asked", step=step, usd=1.0)
    functions = [
        {"id": call, "type": "function", "function": {"name": "read", "arguments": "{}"}} for call in calls
    ]
    message = {"role": "assistant", "content": "so", **({"tool_calls": functions} if calls else {})}
    usage = {"input": 100, "cached": 10, "output": 5}
    talk.append("reply", step=step, message=message, finish="stop", usage=usage, usd=usd, seconds=1.0)


def answered(talk: Conversation, step: int, call: str) -> None:
    talk.append(
        "result", step=step, call=call, name="read", text="page", stable="read", draft="d1", verdict=None
    )


@pytest.fixture
def talk(tmp_path: Path) -> Conversation:
    made = Conversation(tmp_path)
    made.append("prompt", messages=PROMPT, digests={})
    return made


def test_messages_follow_from_the_entries(talk: Conversation) -> None:
    asked(talk, 1, "a", "b")
    assert talk.unanswered is not None
    assert [call["id"] for call in talk.unanswered[1]] == ["a", "b"]
    answered(talk, 1, "a")
    assert talk.unanswered is not None
    assert [call["id"] for call in talk.unanswered[1]] == ["b"]
    answered(talk, 1, "b")
    assert talk.unanswered is None
    assert [message["role"] for message in talk.messages] == ["system", "user", "assistant", "tool", "tool"]
    assert Conversation.opened(talk.folder).messages == talk.messages


def test_a_reply_without_a_call_waits_for_an_answer(talk: Conversation) -> None:
    asked(talk, 1)
    assert talk.unanswered == (1, [])
    talk.append("said", step=1, text="call a tool")
    assert talk.unanswered is None
    assert talk.messages[-1] == {"role": "user", "content": "call a tool"}


def test_what_may_have_been_paid_counts(talk: Conversation) -> None:
    asked(talk, 1, "a")
    talk.append("asked", step=2, usd=1.0)  # and then the process was killed
    again = Conversation.opened(talk.folder)
    assert again.usd == pytest.approx(1.25)
    assert again.tokens == {"input": 100, "cached": 10, "output": 5}
    asked(again, 2, "b")
    assert again.usd == pytest.approx(0.5)  # asked again, and answered


def test_a_half_written_line_is_dropped(talk: Conversation) -> None:
    asked(talk, 1, "a")
    with (talk.folder / FILE).open("a") as file:
        file.write('{"kind": "result", "st')
    again = Conversation.opened(talk.folder)
    assert again.entries == talk.entries
    answered(again, 1, "a")
    assert Conversation.opened(talk.folder).entries == again.entries


def test_a_new_chapter_leaves_out_what_was_before(talk: Conversation) -> None:
    asked(talk, 1, "a")
    answered(talk, 1, "a")
    talk.append("prompt", messages=PROMPT[:1], digests={}, step=2)
    assert talk.messages == PROMPT[:1]
    assert talk.steps == 1


def test_what_only_looks_like_a_secret_is_kept(talk: Conversation) -> None:
    text = "mask-of-the-document-and-its-window from_hf_abcdefghijklmnopqrs"
    assert talk.append("event", text=text)["text"] == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("OUR_API_KEY", "correct horse battery"),
        ("DB_PASSWORD", 'quote"and\\slash'),
        (None, "sk-ant-api03-abcdefghijklmnop"),
        (None, "hf_abcdefghijklmnopqrstuv"),
        (None, "AKIAABCDEFGHIJKLMNOP"),
        (None, "ghp_abcdefghijklmnopqrstuvwxyz"),
    ],
)
def test_no_secret_is_written(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch, name: str | None, secret: str
) -> None:
    if name:
        monkeypatch.setenv(name, secret)
    talk.append("event", text=f"the endpoint said: no such key {secret}!")
    asked(talk, 1, "a")
    talk.append("result", step=1, call="a", name="read", text=secret, stable=secret, draft="", verdict=None)
    whole = (talk.folder / FILE).read_text()
    assert secret not in whole
    assert secret not in Conversation.opened(talk.folder).entries[1]["text"]
    assert whole.count("[redacted]") == 3
