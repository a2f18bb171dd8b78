"""What was said so far? A run's entries, each on disk before the next begins, and what follows from them.

An entry is a line of steps.jsonl, by its `kind`:
  prompt   messages, digests    what a chapter of the conversation begins with
  asked    step, usd            what the reply that is waited for may cost at most
  reply    step, message, finish, usage, usd, seconds
  result   step, call, name, text, stable, draft, verdict    of one tool call
  said     step, text           what was answered to a reply that called no tool
  event    text                 for whoever looks on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptw.agent.environment import redacted
from ptw.runs import lines

FILE = "steps.jsonl"
DRAFTS = "drafts"
Entry = dict[str, Any]
Message = dict[str, Any]


@dataclass
class Conversation:
    """The entries of one run; `append` writes to the disk first."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def opened(cls, folder: Path) -> Conversation:
        """What a run's folder holds, also one whose process was killed while it wrote."""
        lines.keep(folder / FILE, lambda line: "kind" in line)
        return cls(folder, lines.read(folder / FILE)[0])

    def append(self, kind: str, **values: Any) -> Entry:
        """One more entry, without any secret."""
        entry: Entry = _redacted({"kind": kind, **values})
        lines.append(self.folder / FILE, entry)
        self.entries.append(entry)
        return entry

    def of(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self.entries if entry["kind"] in kinds]

    def entries_of_chapter(self, kind: str) -> list[Entry]:
        """Those since the last prompt."""
        start = max((at for at, entry in enumerate(self.entries) if entry["kind"] == "prompt"), default=0)
        return [entry for entry in self.entries[start:] if entry["kind"] == kind]

    @property
    def steps(self) -> int:
        """Replies so far."""
        return len(self.of("reply"))

    @property
    def usd(self) -> float:
        """What was paid; of a reply that never came, what it may have cost."""
        # a chapter begins where a request was too long to be answered, which costs nothing
        answered = {entry["step"] for entry in self.of("reply", "prompt") if "step" in entry}
        lost = [entry["usd"] for entry in self.of("asked") if entry["step"] not in answered]
        return float(sum(entry["usd"] for entry in self.of("reply")) + sum(lost))

    @property
    def tokens(self) -> dict[str, int]:
        """Of all replies: input, cached (of the input), output."""
        names = ("input", "cached", "output")
        return {name: sum(entry["usage"].get(name, 0) for entry in self.of("reply")) for name in names}

    @property
    def messages(self) -> list[Message]:
        """Of the current chapter, as an LLM takes them; it only ever grows."""
        found: list[Message] = []
        for entry in self.entries:
            if entry["kind"] == "prompt":
                found = list(entry["messages"])
            elif entry["kind"] == "reply":
                found.append(entry["message"])
            elif entry["kind"] == "result":
                found.append({"role": "tool", "tool_call_id": entry["call"], "content": entry["text"]})
            elif entry["kind"] == "said":
                found.append({"role": "user", "content": entry["text"]})
        return found

    @property
    def unanswered(self) -> tuple[int, Sequence[Message]] | None:
        """The step and the tool calls of the last reply that have no result yet; None where all have."""
        replies = self.of("reply")
        if not replies:
            return None
        step = replies[-1]["step"]
        answered = {entry["call"] for entry in self.of("result") if entry["step"] == step}
        answered |= {entry.get("call") for entry in self.of("said") if entry["step"] == step}
        calls = replies[-1]["message"].get("tool_calls") or []
        waiting = [call for call in calls if call["id"] not in answered]
        if waiting:
            return step, waiting
        return (step, []) if not calls and None not in answered else None

    @property
    def draft(self) -> str | None:
        """The digest of the port's text after the last tool call that ended."""
        drafts = [entry["draft"] for entry in self.of("prompt", "result", "event") if entry.get("draft")]
        return drafts[-1] if drafts else None

    @property
    def submissions(self) -> list[Mapping[str, Any]]:
        """What acceptances said, one each."""
        verdicts = [entry["verdict"] for entry in self.of("result") if entry.get("verdict")]
        return [verdict for verdict in verdicts if verdict["level"] == "acceptance"]


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: _redacted(one) for key, one in value.items()}
    return [_redacted(one) for one in value] if isinstance(value, list | tuple) else value
