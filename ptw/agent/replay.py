"""How does a recorded conversation run again? Replies are the recording's, tool calls and verdicts are live.

A recording is a line a reply, with what its tool calls came to. It is strict: what comes to something else
now than then ends it, since the next reply was an answer to that, and so do other tools. Rules and reading
list change with ptw and transformers; that they have is said.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptw.agent.conversation import Conversation, Entry, Message
from ptw.agent.llm import Price, Reply, Unanswered
from ptw.errors import PtwError

VERSION = 1


def record(
    talk: Conversation,
    model_type: str,
    llm: str,
    price: Price,
    ports: Sequence[str] = (),
    budget_usd: float | None = None,
) -> list[Entry]:
    """The lines of a recording: what it is of, then each reply and what came of it.

    `ports` are those that there were: a draft is made of one, and a warm start tries them.
    """
    prompts = talk.of("prompt")
    lines: list[Entry] = [
        {
            "version": VERSION,
            "model_type": model_type,
            "llm": llm,
            "price": dataclasses.asdict(price),
            "budget_usd": budget_usd,
            "ports": sorted(set(ports) - {model_type}),
            "prompt": prompts[0]["digests"] if prompts else {},
        }
    ]
    for reply in talk.of("reply"):
        results = [entry for entry in talk.of("result") if entry["step"] == reply["step"]]
        lines.append(
            {
                "message": reply["message"],
                "finish": reply["finish"],
                "usage": reply["usage"],
                "usd": reply["usd"],
                "came": [entry["stable"] for entry in results],
            }
        )
    return lines


def write(lines: Sequence[Entry], file: Path) -> None:
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


class Recorded:
    """Replies in the recording's order, at what they cost then."""

    def __init__(self, file: Path, model_type: str) -> None:
        try:
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
            self.head, self.replies = lines[0], lines[1:]
            self.llm, self.model_type = str(self.head["llm"]), str(self.head["model_type"])
            known = self.head["version"] == VERSION
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise PtwError(f"{file}: no recording of a conversation: {_reason(error)}") from error
        if not known:
            raise PtwError(
                f"{file}: its version is {self.head['version']}, and {VERSION} is read: record it anew"
            )
        if model_type != self.model_type:
            raise PtwError(f"{file}: a conversation on {self.model_type}, not on {model_type}")
        self.file = file
        self.price = Price(**self.head["price"])
        self.talk: Conversation | None = None

    def follow(self, talk: Conversation) -> list[str]:
        """Whose results are to be the recording's; gives the parts of the prompt that have changed."""
        self.talk = talk
        then, now = self.head["prompt"], talk.of("prompt")[0]["digests"]
        changed = [name for name, digest in now.items() if then.get(name) != digest]
        if "tools" in changed:
            raise PtwError(
                f"{self.file}: it was recorded with other tools than there are now: record it anew"
            )
        return changed

    def ask(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Reply:
        """The next reply, if all came to what it came to then. PtwError says what differs."""
        assert self.talk is not None
        step = self.talk.steps
        if step:
            self._compare(step)
        if step >= len(self.replies):
            raise Unanswered(f"{self.file}: the recording ends after {step} replies")
        line = self.replies[step]
        return Reply(line["message"], line["finish"], line["usage"], line["usd"])

    def _compare(self, step: int) -> None:
        assert self.talk is not None
        now = [entry["stable"] for entry in self.talk.of("result") if entry["step"] == step]
        then = self.replies[step - 1]["came"]
        if now != then:
            raise PtwError(
                f"{self.file}: step {step} came to something else than when it was recorded, so what follows "
                f"is no answer to it.\n  then: {'; '.join(then)}\n  now:  {'; '.join(now)}"
            )


def _reason(error: Exception) -> str:
    """In words: what the system says, or what the file lacks."""
    if isinstance(error, OSError):
        return f"it can't be read ({error.strerror})"
    return f"not one of ptw's: {error}" if str(error) else "it is empty"
