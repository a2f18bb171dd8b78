"""How is an OpenAI-compatible endpoint asked for one answer, and what when it does not give one?"""

from __future__ import annotations

import json
import os
import random
import threading
import time
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
LONGEST_LIMITED_SECONDS = 60.0  # between two tries of a rate limit that says not how long it lasts
PATIENCE_SECONDS = 3600.0  # with a rate limit under which no request is answered
LIMITS = {429, 529}  # too many requests: no try counts
NO_MONEY = "insufficient_quota"  # what a 429 is called that no waiting ends
PASSING = {408, 409, 425}  # and all others from 500 on: another try may be answered
OF_THE_ACCOUNT = {401, 402, 407}  # no row is at fault; of all others the row may be
BILLED = {408, 502, 504, 524}  # an answer may have been made that did not come through
FILTERED = "content_filter"  # some endpoints bill what they filter
HINT = "see whether it is up, look at served_as and api_key_env of the model, then go on with --resume"
USUAL_LIMIT = "max_tokens"
SHOWN = 400  # characters of what an endpoint says of a fault
ODD = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # what odd JSON raises
KEPT = ("content", "tool_calls", "reasoning_content")  # of a message
HIDDEN = "[redacted]"


@dataclass(frozen=True)
class Reply:
    """`refused`: why the message is no answer. Tokens are those that the endpoint counted, if it did.

    `asked`: when the request was sent that it answers, by `time.monotonic`.
    """

    message: dict[str, Any]
    refused: str | None
    cut_off: bool
    input_tokens: int | None
    output_tokens: int | None
    asked: float


@dataclass(frozen=True)
class Fault:
    """Why a try was not answered, and how long to wait at least before the next one."""

    said: str
    retry_after: float = 0.0
    limited: bool = False  # by the rate of all requests
    rejected: bool = False  # another try of this very request would be vain


class Failed(Exception):
    """So many requests got no answer. rejected: the endpoint says that it will not answer this one."""

    def __init__(self, reason: str, requests: int, rejected: bool) -> None:
        super().__init__(reason)
        self.requests = requests
        self.rejected = rejected


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

    def paid(self, input_tokens: int, output_tokens: int) -> None:
        """It was no answer, and the endpoint counts it."""
        ...

    def lost(self) -> None:
        """Nobody knows whether it was answered: it counts as what it may have cost."""
        ...


class Endpoint:
    """Threads may ask it at once."""

    def __init__(self, model: ModelEntry, timeout_seconds: float, tries: int) -> None:
        assert model.endpoint is not None
        self.who = f"model {model.name}: {model.endpoint}"
        self.ending = threading.Event()
        self.limited: str | None = None  # what it said of its rate limit last
        self._answered = time.monotonic()  # when it last was
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
        """One answer. Failed, Broke, Interrupted, and PtwError for what ends the run.

        A rate limit is waited for, and is no try.
        """
        body = {"messages": messages, **({"tools": tools} if tools else {}), **more}
        tries = limited = 0
        while True:
            if not charge.announce():
                raise Broke
            found = self._tried(body, most_tokens, charge)
            if isinstance(found, Reply):
                self._answered = time.monotonic()
                return found
            if found.limited:
                self._demand_patience(found)
                limited += 1
                self._wait(limited, found.retry_after, LONGEST_LIMITED_SECONDS)
                continue
            tries += 1
            if found.rejected:
                raise Failed(found.said, tries, rejected=True)
            if tries == self._tries:
                reason = f"no answer to {tries} requests, the last time: {found.said}"
                raise Failed(reason, tries, rejected=False)
            self._wait(tries, found.retry_after, LONGEST_WAIT_SECONDS)

    def _tried(self, body: Mapping[str, Any], most_tokens: int, charge: Charge) -> Reply | Fault:
        asked = time.monotonic()
        try:
            response = self._posted(body, most_tokens)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            charge.free()
            return Fault(self._plain(str(error) or type(error).__name__))
        except httpx.RequestError as error:
            charge.lost()
            return Fault(self._plain(f"{type(error).__name__} {error}".strip()))
        reply = _reply(response, asked) if response.status_code == httpx.codes.OK else None
        if reply is not None:
            return reply
        _charge(response, charge)
        if response.status_code == httpx.codes.OK:
            return Fault(self._plain(f"no chat completion: {response.text}"))
        return self._fault(response)

    def _posted(self, body: Mapping[str, Any], most_tokens: int) -> httpx.Response:
        limit = self._limit
        values = {"model": self._served_as, **body, limit: most_tokens}
        # in ASCII: a row may hold half a surrogate pair, which UTF-8 has no form for
        response = self._client.post("/chat/completions", content=json.dumps(values))
        if limit == USUAL_LIMIT and _parameter_at_fault(response) == limit:
            self._limit = "max_completion_tokens"  # as reasoning models call it
            return self._posted(body, most_tokens)
        return response

    def _fault(self, response: httpx.Response) -> Fault:
        """Of an HTTP error; PtwError: it is of the account, and so of every request."""
        status, after = response.status_code, _retry_after(response)
        said = f"HTTP {status}: {self._plain(_said(response))}"
        if status in OF_THE_ACCOUNT or NO_MONEY in _codes(response):
            raise PtwError(f"{self.who}: {said}; {HINT}")
        if status in LIMITS:
            return Fault(said, after, limited=True)
        return Fault(said, after, rejected=status not in PASSING and status < 500)

    def _demand_patience(self, fault: Fault) -> None:
        self.limited = fault.said
        if time.monotonic() > self._answered + PATIENCE_SECONDS:
            minutes = f"{PATIENCE_SECONDS / 60:.0f} minutes"
            raise PtwError(
                f"{self.who}: nothing was answered for {minutes}, the last time: {fault.said}; {HINT}"
            )

    def _wait(self, number: int, retry_after: float, longest: float) -> None:
        seconds = min(FIRST_WAIT_SECONDS * 2 ** min(number - 1, 10), longest) * random.uniform(0.75, 1.25)
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


def _charge(response: httpx.Response, charge: Charge) -> None:
    """For a response that is no answer."""
    counts = _counts(response)
    if counts != (None, None):
        charge.paid(*(count or 0 for count in counts))
    elif response.status_code in {httpx.codes.OK, *BILLED} or FILTERED in _codes(response):
        charge.lost()
    else:
        charge.free()


def _reply(response: httpx.Response, asked: float) -> Reply | None:
    """None: this is none."""
    try:
        choice = response.json()["choices"][0]
        said, finish = choice["message"], choice.get("finish_reason")
        message = {"role": "assistant", **{key: said[key] for key in KEPT if said.get(key)}}
    except ODD:
        return None
    refused = None
    if finish == "content_filter":
        refused = "the endpoint's content filter took the answer"
    elif said.get("refusal"):
        refused = f"the model refuses: {said['refusal']}"
    return Reply(_encodable(message), refused, finish == "length", *_counts(response), asked)


def _counts(response: httpx.Response) -> tuple[int | None, int | None]:
    """The tokens of the prompt and of the answer, as the endpoint counts them, if it does."""
    with suppress(*ODD):
        usage = response.json()["usage"]
        given, made = (usage.get(key) for key in ("prompt_tokens", "completion_tokens"))
        return given if isinstance(given, int) else None, made if isinstance(made, int) else None
    return None, None


def _encodable(message: dict[str, Any]) -> dict[str, Any]:
    """Halves of surrogate pairs, which UTF-8 has no form for, become U+FFFD."""
    text = json.dumps(message, ensure_ascii=False).encode("utf-16", "surrogatepass")
    found: dict[str, Any] = json.loads(text.decode("utf-16", "replace"))
    return found


def _parameter_at_fault(response: httpx.Response) -> str | None:
    if response.status_code != httpx.codes.BAD_REQUEST:
        return None
    with suppress(*ODD):
        return str(response.json()["error"]["param"])
    return None


def _codes(response: httpx.Response) -> set[str]:
    """What its error is called."""
    with suppress(*ODD):
        error = response.json()["error"]
        return {str(error[key]) for key in ("code", "type") if error.get(key)}
    return set()


def _said(response: httpx.Response) -> str:
    """The message in its error; without one the body."""
    with suppress(*ODD):
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
