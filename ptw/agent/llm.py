"""How is an LLM asked, what does it cost, and what when it does not answer? Any that litellm knows."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptw.agent.environment import redacted
from ptw.agent.reading.pages import count
from ptw.errors import PtwError
from ptw.workspace.manifest import AgentEntry

MOST_OUTPUT = 16_000  # tokens of one reply: a whole port, and thoughts
TIMEOUT_SECONDS = 3600.0
WAITS = (2.0, 5.0, 15.0, 45.0, 90.0)  # seconds before each further try
LONGEST_WAIT = 600.0
MILLION = 1e6
Message = dict[str, Any]


@dataclass(frozen=True)
class Price:
    """Dollars a token."""

    input: float
    cached: float
    output: float

    def of(self, usage: Mapping[str, int]) -> float:
        """Of a reply."""
        fresh = usage["input"] - usage["cached"]
        return fresh * self.input + usage["cached"] * self.cached + usage["output"] * self.output

    def most(self, messages: Sequence[Message], known: int = 0) -> float:
        """What a reply to these may cost, of which so many tokens are known to have been counted before."""
        return max(known, count(json.dumps(list(messages)))) * self.input + MOST_OUTPUT * self.output


@dataclass(frozen=True)
class Reply:
    """`finish`: stop, tool_calls, length or content_filter."""

    message: Message
    finish: str
    usage: Mapping[str, int]
    usd: float


class ContextOverflow(Exception):
    """The conversation is longer than the LLM can read."""


class Unanswered(Exception):
    """The endpoint gave no reply, however often it was asked; the run can go on later."""


@dataclass(frozen=True)
class Llm:
    """`name` as litellm knows it; `tell` is told what goes wrong on the way."""

    name: str
    price: Price
    api_base: str | None = None
    waits: Sequence[float] = WAITS
    tell: Callable[[str], None] = lambda text: None

    def ask(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Reply:
        """One reply. ContextOverflow, Unanswered, and PtwError for what the user can mend."""
        litellm = _litellm()
        for wait in (*self.waits, None):
            try:
                return self._reply(self._completed(litellm, messages, tools))
            except litellm.ContextWindowExceededError as error:
                raise ContextOverflow(_said(error)) from error
            except litellm.ContentPolicyViolationError as error:
                message = {"role": "assistant", "content": _said(error)}
                return Reply(message, "content_filter", {"input": 0, "cached": 0, "output": 0}, 0.0)
            except (
                litellm.AuthenticationError,
                litellm.PermissionDeniedError,
                litellm.NotFoundError,
                litellm.BadRequestError,
            ) as error:
                raise PtwError(f"llm {self.name}: {_said(error)}; look at [agent] and at the key") from error
            except litellm.exceptions.APIError as error:
                self._again(error, wait)
            except litellm.openai.APIError as error:  # rate limits, timeouts, dead or broken endpoints
                self._again(error, wait)
        raise AssertionError

    def _again(self, error: Exception, wait: float | None) -> None:
        if wait is None:
            tries = len(self.waits) + 1
            raise Unanswered(f"llm {self.name}: no answer to {tries} requests: {_said(error)}") from error
        seconds = min(max(wait, _retry_after(error)), LONGEST_WAIT)
        self.tell(f"{type(error).__name__}: asked again in {seconds:g} s")
        time.sleep(seconds)

    def _completed(
        self, litellm: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> Any:
        asked: dict[str, Any] = {
            "model": self.name,
            "messages": self._marked(litellm, messages),
            "tools": list(tools),
        }
        if self.api_base:
            asked["api_base"] = self.api_base
            key = os.environ.get("OPENAI_API_KEY")
            asked["api_key"] = key or "none"  # of one's own endpoint; litellm insists on one
        return litellm.completion(
            **asked, max_tokens=MOST_OUTPUT, timeout=TIMEOUT_SECONDS, max_retries=0, num_retries=0
        )

    def _marked(self, litellm: Any, messages: Sequence[Message]) -> list[Message]:
        """Where a provider wants to be told, up to where the next request will be the same."""
        marked = [dict(message) for message in messages]
        if not self.name.startswith("anthropic/") and "claude" not in self.name:
            return marked
        with contextlib.suppress(Exception):
            if not litellm.supports_prompt_caching(self.name):
                return marked
        for place in {len(marked) - 1, min(1, len(marked) - 1)}:
            message = marked[place]
            if isinstance(message.get("content"), str) and message["content"]:
                text = {"type": "text", "text": message["content"], "cache_control": {"type": "ephemeral"}}
                marked[place] = message | {"content": [text]}
        return marked

    def _reply(self, answer: Any) -> Reply:
        choice = answer.choices[0]
        calls = choice.message.tool_calls or []
        message: Message = {"role": "assistant", "content": choice.message.content or ""}
        if calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name or "",
                        "arguments": call.function.arguments or "{}",
                    },
                }
                for call in calls
            ]
        details = getattr(answer.usage, "prompt_tokens_details", None)
        cached = int(getattr(details, "cached_tokens", 0) or 0) if details else 0
        usage = {
            "input": int(answer.usage.prompt_tokens or 0),
            "cached": cached,
            "output": int(answer.usage.completion_tokens or 0),
        }
        return Reply(message, str(choice.finish_reason or "stop"), usage, self.price.of(usage))


def price_of(llm: str, agent: AgentEntry) -> Price:
    """What the workspace says, else what litellm knows; PtwError for one without a price: none is free."""
    if agent.usd_per_million_input is not None and agent.usd_per_million_output is not None:
        cached = agent.usd_per_million_cached
        read = agent.usd_per_million_input if cached is None else cached
        return Price(
            agent.usd_per_million_input / MILLION, read / MILLION, agent.usd_per_million_output / MILLION
        )
    known: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # litellm raises an Exception for a model that it does not know
        known = dict(_litellm().get_model_info(llm))
    first, last = known.get("input_cost_per_token"), known.get("output_cost_per_token")
    if not first or not last:
        raise PtwError(
            f"llm {llm!r} has no known price, so its budget can't be kept; say it in workspace.toml: "
            "[agent] usd_per_million_input = ..., usd_per_million_output = ... (0 for one of your own)"
        )
    return Price(first, known.get("cache_read_input_token_cost") or first, last)


def missing_keys(llm: str, api_base: str | None) -> str | None:
    """What its provider looks for in the environment in vain, in words; None where nothing is known."""
    if api_base is not None:
        return None
    found: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        found = dict(_litellm().validate_environment(llm))
    missing = [] if found.get("keys_in_environment") else found.get("missing_keys", [])
    return f"not set: {', '.join(missing)}; {llm} can't be asked" if missing else None


def _litellm() -> Any:
    """Imported late, which takes seconds, and kept from asking the network for prices."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    litellm.suppress_debug_info = True
    litellm.drop_params = True
    return litellm


def _retry_after(error: Exception) -> float:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    with contextlib.suppress(TypeError, ValueError):
        return float(headers.get("retry-after", 0))
    return 0.0


def _said(error: Exception) -> str:
    text = redacted(str(error).strip())
    return text.splitlines()[0][:400] if text else type(error).__name__
