"""How is an OpenAI-compatible endpoint asked for one answer, and what when it does not give one?"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import httpx

from ptw.errors import PtwError
from ptw.workspace.manifest import ModelEntry

FIRST_WAIT_SECONDS = 1.0  # before the second try; then twice as long each time
LONGEST_WAIT_SECONDS = 600.0
BUSY = {408, 409, 425, 429}  # and all from 500 on: another try may be answered
AT_FAULT = {400, 413, 422}  # this very request is
USUAL_LIMIT = "max_tokens"
SHOWN = 400  # characters of what an endpoint says of a fault
KEPT = ("content", "tool_calls", "reasoning_content")  # of a message
HIDDEN = "[redacted]"


@dataclass(frozen=True)
class Reply:
    """`refused`: why the message is no answer. Tokens are those that the endpoint counted, if it did."""

    message: dict[str, Any]
    refused: str | None
    cut_off: bool
    input_tokens: int | None
    output_tokens: int | None


class Rejected(Exception):
    """The endpoint will not answer this very request: too long, or against its rules."""


class Broke(Exception):
    """There is no money for another try."""


class Interrupted(Exception):
    """The run ends while this request waits for another try."""


class Charge(Protocol):
    """What one request costs: each try is announced, and then one of the others is said of it."""

    def announce(self) -> bool:
        """Whether there is money for it."""
        ...

    def free(self) -> None: ...

    def lost(self) -> None:
        """Nobody knows whether it was answered: it counts as what it may have cost."""
        ...


class Endpoint:
    """Threads may ask it at once."""

    def __init__(self, model: ModelEntry, timeout_seconds: float, tries: int) -> None:
        assert model.endpoint is not None
        self.who = f"model {model.name}: {model.endpoint}"
        self.ending = threading.Event()
        self._served_as, self._tries = model.served_as, tries
        self._key = _key(model)
        self._limit = USUAL_LIMIT
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        address = model.endpoint.rstrip("/")
        self._client = httpx.Client(
            base_url=address,
            headers=headers,
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=None),
        )

    def close(self) -> None:
        self._client.close()

    def answer(
        self, messages: list[Any], tools: list[Any] | None, most_tokens: int, charge: Charge, **more: Any
    ) -> Reply:
        """One answer. Rejected, Broke, Interrupted, and PtwError for what ends the run."""
        reason, retry_after = "", 0.0
        for number in range(self._tries):
            if number:
                self._wait(number, retry_after)
            if not charge.announce():
                raise Broke
            found = self._tried(
                {"messages": messages, **({"tools": tools} if tools else {}), **more}, most_tokens, charge
            )
            if isinstance(found, Reply):
                return found
            reason, retry_after = found
        hint = "see whether it is up, then go on with --resume"
        raise PtwError(f"{self.who}: no answer to {self._tries} requests, the last time: {reason}; {hint}")

    def _tried(self, body: Mapping[str, Any], most_tokens: int, charge: Charge) -> Reply | tuple[str, float]:
        """The answer; or why there is none, and how long to wait at least."""
        try:
            response = self._posted(body, most_tokens)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            charge.free()
            return self._plain(str(error) or type(error).__name__), 0.0
        except httpx.TransportError as error:
            charge.lost()
            return self._plain(f"{type(error).__name__} {error}".strip()), 0.0
        if response.status_code != httpx.codes.OK:
            charge.free()
            return self._fault(response), _retry_after(response)
        reply = _reply(response)
        if reply is None:
            charge.lost()
            return self._plain(f"no chat completion: {response.text}"), 0.0
        return reply

    def _posted(self, body: Mapping[str, Any], most_tokens: int) -> httpx.Response:
        limit = self._limit
        values = {"model": self._served_as, **body, limit: most_tokens}
        # in ASCII: a row may hold half a surrogate pair, which UTF-8 has no form for
        response = self._client.post("/chat/completions", content=json.dumps(values))
        if limit == USUAL_LIMIT and _parameter_at_fault(response) == limit:
            self._limit = "max_completion_tokens"  # as reasoning models call it
            return self._posted(body, most_tokens)
        return response

    def _fault(self, response: httpx.Response) -> str:
        """What it says, where another try may do; raises where none does."""
        said = f"HTTP {response.status_code}: {self._plain(_said(response))}"
        if response.status_code in BUSY or response.status_code >= 500:
            return said
        if response.status_code in AT_FAULT:
            raise Rejected(said)
        hint = "look at endpoint, served_as and api_key_env of the model, then go on with --resume"
        raise PtwError(f"{self.who}: {said}; {hint}")

    def _wait(self, number: int, retry_after: float) -> None:
        seconds = FIRST_WAIT_SECONDS * 2 ** (number - 1) * random.uniform(0.75, 1.25)
        if self.ending.wait(min(max(seconds, retry_after), LONGEST_WAIT_SECONDS)):
            raise Interrupted

    def _plain(self, text: str) -> str:
        """In a line, without the key: some endpoints quote it."""
        text = " ".join(text.split())
        return (text if self._key is None else text.replace(self._key, HIDDEN))[:SHOWN]


def _key(model: ModelEntry) -> str | None:
    if model.api_key_env is None:
        return None
    key = os.environ.get(model.api_key_env, "").strip()
    if not key:
        raise PtwError(
            f"model {model.name}: the environment variable {model.api_key_env} (api_key_env) is not set "
            "where the workers run; set it there, then go on with --resume"
        )
    return key


def _reply(response: httpx.Response) -> Reply | None:
    """None: this is none."""
    try:
        values = response.json()
        choice = values["choices"][0]
        said, finish = choice["message"], choice.get("finish_reason")
        message = {"role": "assistant", **{key: said[key] for key in KEPT if said.get(key)}}
        usage = values.get("usage") or {}
        counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    refused = None
    if finish == "content_filter":
        refused = "the endpoint's content filter took the answer"
    elif said.get("refusal"):
        refused = f"the model refuses: {said['refusal']}"
    tokens = (count if isinstance(count, int) else None for count in counts)
    return Reply(_encodable(message), refused, finish == "length", *tokens)


def _encodable(message: dict[str, Any]) -> dict[str, Any]:
    """Halves of surrogate pairs, which UTF-8 has no form for, become U+FFFD."""
    text = json.dumps(message, ensure_ascii=False).encode("utf-16", "surrogatepass")
    found: dict[str, Any] = json.loads(text.decode("utf-16", "replace"))
    return found


def _parameter_at_fault(response: httpx.Response) -> str | None:
    if response.status_code != httpx.codes.BAD_REQUEST:
        return None
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        return str(response.json()["error"]["param"])
    return None


def _said(response: httpx.Response) -> str:
    """The message in its error; without one the body."""
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    return response.text or response.reason_phrase


def _retry_after(response: httpx.Response) -> float:
    """Seconds, or until a date."""
    text = response.headers.get("retry-after", "")
    with suppress(ValueError):
        return float(text)
    with suppress(ValueError, TypeError):
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    return 0.0
