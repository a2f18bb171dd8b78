"""What an LLM's endpoint does wrong, and what is done about it; a real client, a scripted endpoint."""

import dataclasses

import pytest

from ptw.agent.llm import ContextOverflow, Llm, Price, Unanswered, missing_keys, price_of
from ptw.errors import PtwError
from ptw.workspace.manifest import AgentEntry
from tests.agent.conftest import Answer, Endpoint, refusal, reply

PRICE = Price(3e-6, 3e-7, 15e-6)
MESSAGES = [{"role": "user", "content": "write it"}]
TOOLS = [
    {"type": "function", "function": {"name": "read", "description": "", "parameters": {"type": "object"}}}
]


@pytest.fixture
def llm(endpoint: Endpoint) -> Llm:
    return Llm("openai/by-hand", PRICE, endpoint.url, waits=(0.0, 0.0))


def test_a_reply_has_its_calls_its_tokens_and_its_price(llm: Llm, endpoint: Endpoint) -> None:
    endpoint.says([reply("so", ("read", {"path": "port.md"}), prompt_tokens_details={"cached_tokens": 600})])
    said = llm.ask(MESSAGES, TOOLS)
    (call,) = said.message["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("read", '{"path": "port.md"}')
    assert said.usage == {"input": 1000, "cached": 600, "output": 100}
    assert said.usd == pytest.approx(400 * 3e-6 + 600 * 3e-7 + 100 * 15e-6)
    assert endpoint.asked[0]["messages"] == MESSAGES


def test_arguments_that_are_no_json_arrive_as_they_are(llm: Llm, endpoint: Endpoint) -> None:
    endpoint.says([reply("", ("read", '{"path": "po'))])
    assert llm.ask(MESSAGES, TOOLS).message["tool_calls"][0]["function"]["arguments"] == '{"path": "po'


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_asked_again(llm: Llm, endpoint: Endpoint, status: int) -> None:
    endpoint.says([refusal(status, "later"), refusal(status, "later"), reply("so")])
    assert llm.ask(MESSAGES, TOOLS).message["content"] == "so"
    assert len(endpoint.asked) == 3


def test_what_does_not_pass_ends_it_and_can_go_on_later(llm: Llm, endpoint: Endpoint) -> None:
    endpoint.says([refusal(429, "later")] * 3)
    with pytest.raises(Unanswered, match="3 requests"):
        llm.ask(MESSAGES, TOOLS)
    assert len(endpoint.asked) == 3  # one request a try: no client retries beside us


def test_a_dead_endpoint_is_said() -> None:
    with pytest.raises(Unanswered, match="no answer"):
        Llm("openai/by-hand", PRICE, "http://127.0.0.1:9/v1", waits=(0.0,)).ask(MESSAGES, TOOLS)


def test_a_reply_that_takes_too_long_is_asked_for_again(
    llm: Llm, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptw.agent.llm.TIMEOUT_SECONDS", 0.5)
    endpoint.says([dataclasses.replace(reply("late"), seconds=2.0), reply("so")])
    assert llm.ask(MESSAGES, TOOLS).message["content"] == "so"


def test_a_wrong_key_is_the_users_and_is_not_shown(
    llm: Llm, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789abcdef")
    endpoint.says([refusal(401, "wrong key sk-planted-0123456789abcdef")])
    with pytest.raises(PtwError) as error:
        llm.ask(MESSAGES, TOOLS)
    assert "planted" not in str(error.value)
    assert len(endpoint.asked) == 1


def test_a_conversation_that_is_too_long_is_told_apart(llm: Llm, endpoint: Endpoint) -> None:
    text = "This model's maximum context length is 8192 tokens, however you requested 9000 tokens"
    endpoint.says([refusal(400, text)])
    with pytest.raises(ContextOverflow):
        llm.ask(MESSAGES, TOOLS)


def test_a_model_without_a_price_is_not_free() -> None:
    with pytest.raises(PtwError, match="usd_per_million_input"):
        price_of("openai/nobody-knows-it", AgentEntry())
    known = price_of("anthropic/claude-sonnet-4-5", AgentEntry())
    assert 0 < known.cached < known.input < known.output
    own = price_of("openai/nobody-knows-it", AgentEntry(usd_per_million_input=0, usd_per_million_output=0))
    assert own.of({"input": 10, "cached": 0, "output": 10}) == 0


def test_what_is_reserved_is_more_than_a_reply_costs() -> None:
    assert PRICE.most(MESSAGES) >= PRICE.of({"input": 8, "cached": 0, "output": 16_000})


def test_a_provider_that_caches_is_told_how_far_and_priced_so(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Anthropic's own protocol, as litellm speaks it."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
    usage = {
        "input_tokens": 100,
        "cache_read_input_tokens": 900,
        "cache_creation_input_tokens": 0,
        "output_tokens": 50,
    }
    body = {"id": "x", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    endpoint.says([Answer(body | {"content": [{"type": "text", "text": "so"}], "usage": usage})])
    talk = [
        {"role": "system", "content": "the rules"},
        {"role": "user", "content": "all the reading"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "go on"},
    ]
    said = Llm("anthropic/claude-sonnet-4-5", PRICE, endpoint.url.removesuffix("/v1")).ask(talk, TOOLS)
    assert said.message["content"] == "so"
    assert said.usage == {"input": 1000, "cached": 900, "output": 50}
    assert said.usd == pytest.approx(100 * 3e-6 + 900 * 3e-7 + 50 * 15e-6)
    marked = [
        part["text"]
        for message in endpoint.asked[0]["messages"]
        for part in message["content"]
        if isinstance(part, dict) and "cache_control" in part
    ]
    assert marked == ["all the reading", "go on"]
    assert talk[3] == {"role": "user", "content": "go on"}


def test_a_key_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    name = "anthropic/claude-sonnet-4-5"
    assert missing_keys(name, None) == f"not set: ANTHROPIC_API_KEY; {name} can't be asked"
    assert missing_keys(name, "http://127.0.0.1:8000/v1") is None
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
    assert missing_keys(name, None) is None
    assert missing_keys("nobody/knows-it", None) is None
