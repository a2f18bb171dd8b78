"""The work on a port: ask, act, ask again. Only the gate ends it well; every step is on disk first."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ptw.agent import prompt
from ptw.agent.conversation import DRAFTS, Conversation, Entry, Message
from ptw.agent.desk import TOOLS, Desk, Result, digest
from ptw.agent.judging import Verdict
from ptw.agent.llm import ContextOverflow, Price, Reply, Unanswered

MOST_IDLE = 3  # replies in a row that call no tool that can be run
MOST_CHAPTERS = 6
Tell = Callable[[Entry], None]


class Asked(Protocol):
    """Who replies: an LLM, or a recording of one."""

    @property
    def price(self) -> Price: ...

    def ask(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Reply: ...


@dataclass(frozen=True)
class Limits:
    budget_usd: float
    max_steps: int
    max_minutes: float


class Stopped(Exception):
    """The work has ended without an accepted port; the message says why."""


class Accepted(Exception):
    """The gate has accepted this text."""

    def __init__(self, text: str, verdict: Verdict) -> None:
        super().__init__("accepted")
        self.text, self.verdict = text, verdict


class Loop:
    """One run's. `spent_minutes` before it was resumed count."""

    def __init__(
        self,
        talk: Conversation,
        desk: Desk,
        llm: Asked,
        limits: Limits,
        tell: Tell,
        spent_minutes: float = 0.0,
    ) -> None:
        self.talk, self.desk, self.llm, self.limits, self.tell = talk, desk, llm, limits, tell
        self.started = time.monotonic() - 60 * spent_minutes
        self.tools = [tool.schema for tool in TOOLS]
        desk.submissions = len(talk.submissions)

    def run(self) -> Accepted:
        """How it was accepted; Stopped, and PtwError for what the user can mend."""
        try:
            if any(entry["stable"] == "accepted" for entry in self.talk.of("result")):
                self._accept_again()
            while True:
                self.step()
        except Accepted as accepted:
            return accepted
        except Unanswered as error:
            raise Stopped(f"{error}; go on later with --resume {self.talk.folder.name}") from error

    def _accept_again(self) -> None:
        """It was accepted and then killed before the commit: nobody believes a file that says so."""
        verdict = self.desk.accept(self.desk.text)
        if verdict.passed:
            raise Accepted(self.desk.text, verdict)
        raise Stopped(f"it had been accepted, and on other cases now {verdict.brief}")

    def step(self) -> None:
        """One thing: the next tool call of the last reply, or else the next reply."""
        waiting = self.talk.unanswered
        if waiting is None:
            self._ask()
        elif waiting[1]:
            self._act(waiting[0], waiting[1][0])
        else:
            self._remind(waiting[0])

    def _ask(self) -> None:
        self._within_limits()
        messages, step = self.talk.messages, self.talk.steps + 1
        self._note("asked", step=step, usd=self._most())
        started = time.monotonic()
        try:
            reply = self.llm.ask(messages, self.tools)
        except ContextOverflow:
            self._new_chapter(step)
            return
        self._note(
            "reply",
            step=step,
            message=_sound(reply),
            finish=reply.finish,
            usage=dict(reply.usage),
            usd=reply.usd,
            seconds=round(time.monotonic() - started, 1),
        )

    def _act(self, step: int, call: Mapping[str, Any]) -> None:
        name, arguments = call["function"]["name"], _parsed(call["function"]["arguments"])
        started = time.monotonic()
        result = self.desk.act(name, arguments)
        if isinstance(arguments, str) and self._finish(step) == "length":
            result = Result(prompt.CUT_OFF, "error: cut off")
        draft = keep_draft(self.talk, self.desk)
        self._note(
            "result",
            step=step,
            call=call["id"],
            name=name,
            text=result.text,
            stable=result.stable,
            draft=draft,
            verdict=_brief(result.verdict),
            seconds=round(time.monotonic() - started, 1),
        )
        if result.stable == "accepted" and result.verdict is not None:
            raise Accepted(self.desk.text, result.verdict)
        if self.desk.submissions >= self.desk.most_submissions:
            raise Stopped(f"{self.desk.submissions} acceptances were asked for and none was given")
        self._not_idle()

    def _remind(self, step: int) -> None:
        """A reply that called no tool: a refusal, a question, or one that was cut off."""
        finish = self._finish(step)
        text = {"length": prompt.CUT_OFF, "content_filter": prompt.FILTERED}.get(finish, prompt.NO_TOOL)
        self._note("said", step=step, text=text)
        self._not_idle()

    def _not_idle(self) -> None:
        last = [entry["step"] for entry in self.talk.of("reply")][-MOST_IDLE:]
        done = [entry for entry in self.talk.of("result") if entry["step"] in last]
        if len(last) == MOST_IDLE and all(entry["stable"].startswith("error") for entry in done):
            raise Stopped(f"the last {MOST_IDLE} replies called no tool that could be run")

    def _within_limits(self) -> None:
        minutes = (time.monotonic() - self.started) / 60
        if self.talk.steps >= self.limits.max_steps:
            raise Stopped(f"{self.talk.steps} steps, which is the limit (max_steps)")
        if minutes >= self.limits.max_minutes:
            raise Stopped(f"{minutes:.0f} minutes, of {self.limits.max_minutes:g} (max_minutes)")
        usd = self.talk.usd
        most = self._most()
        if usd + most > self.limits.budget_usd:
            spent = f"${usd:.2f} of ${self.limits.budget_usd:g} are spent"
            raise Stopped(f"{spent}, and the next reply may cost ${most:.2f} (budget_usd)")

    def _most(self) -> float:
        """What the next reply may cost: the provider's own count of the last one weighs more than ours."""
        last = self.talk.entries_of_chapter("reply")
        known = sum(last[-1]["usage"].values()) - last[-1]["usage"]["cached"] if last else 0
        return self.llm.price.most(self.talk.messages, known)

    def _new_chapter(self, step: int) -> None:
        """The same prompt, and how far it came: what an LLM can't read any more is left out."""
        prompts = self.talk.of("prompt")
        if len(prompts) >= MOST_CHAPTERS or self.talk.entries[-2]["kind"] == "prompt":
            raise Stopped("the conversation is longer than the LLM can read, however short it begins")
        first = list(prompts[0]["messages"])
        said = next((e["text"] for e in reversed(self.talk.of("result")) if e["name"] == "practice"), "")
        first.append({"role": "user", "content": prompt.chapter(self.desk.name, self.desk.text, said)})
        self._note("prompt", messages=first, digests=prompts[0]["digests"], step=step)

    def _finish(self, step: int) -> str:
        return next(str(entry["finish"]) for entry in self.talk.of("reply") if entry["step"] == step)

    def _note(self, kind: str, **values: Any) -> None:
        self.tell(self.talk.append(kind, **values))


def keep_draft(talk: Conversation, desk: Desk) -> str:
    """The digest of the port's text, which is kept under it."""
    name = digest(desk.text)
    folder = talk.folder / DRAFTS
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(desk.text, encoding="utf-8")
    return name


def restore(talk: Conversation, desk: Desk) -> None:
    """The port's text as it stood after the last tool call that ended."""
    if talk.draft is None:
        return
    file = talk.folder / DRAFTS / f"{talk.draft}.py"
    if file.exists():
        desk.file.parent.mkdir(exist_ok=True)
        desk.file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")


def _sound(reply: Reply) -> Message:
    """Providers refuse a history in which arguments are no JSON: what was cut off is said to be."""
    message = dict(reply.message)
    calls = message.get("tool_calls")
    if calls:
        message["tool_calls"] = [call | {"function": _readable(call["function"])} for call in calls]
    return message


def _readable(function: Mapping[str, Any]) -> dict[str, Any]:
    parsed = _parsed(function["arguments"])
    if isinstance(parsed, str):
        return {
            **function,
            "arguments": json.dumps({"unreadable": function["arguments"][:2000], "why": parsed}),
        }
    return dict(function)


def _parsed(arguments: str) -> Any:
    """The object, or in words what is wrong with it."""
    try:
        found = json.loads(arguments or "{}")
    except ValueError as error:
        return str(error)
    if isinstance(found, dict) and "unreadable" in found:
        return str(found.get("why"))
    return found if isinstance(found, dict) else "they must be an object"


def _brief(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {
        "level": verdict.level,
        "passed": verdict.passed,
        "failed": list(verdict.failed),
        "seed": verdict.report["seed"],
        "only": list(verdict.report.get("only", ())),
    }
