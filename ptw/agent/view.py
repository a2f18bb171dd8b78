"""What does a person see of a run? A line for each thing that happened, and what it has cost so far."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ptw.agent.conversation import FILE, Conversation, Entry
from ptw.runs.record import RunRecord
from ptw.runs.report import STYLES

LONGEST = 110
SHOWN_LINES = 40  # of a tool's result


class Live:
    """Lines as they come, on a terminal; the last one says what is being waited for."""

    def __init__(self, console: Console, budget_usd: float) -> None:
        self.console, self.budget_usd = console, budget_usd
        self.usd, self.tokens, self.steps = 0.0, 0, 0
        self.status = console.status("reading the family")

    def __enter__(self) -> Live:
        if self.console.is_terminal:
            self.status.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.status.stop()

    def tell(self, entry: Entry) -> None:
        if not self.console.is_terminal:
            return
        if entry["kind"] == "reply":
            self.steps = entry["step"]
            self.usd += entry["usd"]
            self.tokens += entry["usage"]["input"] + entry["usage"]["output"]
        for line in told(entry):
            self.console.print(f"[dim]{escape(line)}[/dim]" if entry["kind"] == "event" else escape(line))
        spent = f"${self.usd:.2f} of ${self.budget_usd:g}, {self.tokens} tokens, step {self.steps}"
        self.status.update(f"{waiting(entry)} ({spent})")


def waiting(entry: Entry) -> str:
    """What happens after this entry."""
    if entry["kind"] == "asked":
        return "the LLM thinks"
    if entry["kind"] == "reply":
        names = [call["function"]["name"] for call in entry["message"].get("tool_calls") or []]
        return ", ".join(names) or "the LLM is reminded to act"
    return str(entry.get("text", ""))[:LONGEST] if entry["kind"] == "event" else "going on"


def told(entry: Entry) -> Iterator[str]:
    """One entry in a line or two."""
    kind = entry["kind"]
    if kind == "event":
        yield str(entry["text"])
    elif kind == "reply":
        said = " ".join(str(entry["message"].get("content") or "").split())
        if said:
            yield f"step {entry['step']}: {_short(said)}"
    elif kind == "result":
        yield f"step {entry['step']}: {_short(str(entry['stable']))}"
    elif kind == "said":
        yield f"step {entry['step']}: {_short(str(entry['text']))}"


def show(run: RunRecord) -> RenderableType:
    """The conversation of a run, readably, with what each step cost."""
    talk = Conversation.opened(run.folder)
    return Group(_facts(run, talk), *(part for entry in talk.entries for part in _entry(entry)))


def as_json(run: RunRecord) -> dict[str, Any]:
    """The same for a program."""
    talk = Conversation.opened(run.folder)
    return {
        **run.as_json(),
        "usd": talk.usd,
        "tokens": talk.tokens,
        "steps": talk.steps,
        "entries": talk.entries,
    }


def _facts(run: RunRecord, talk: Conversation) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    state = Text(run.state, STYLES.get(run.state, ""))
    if run.message:
        state.append(f": {run.message}", "default")
    tokens, settings = talk.tokens, run.settings
    table.add_row("run", run.name)
    table.add_row("state", state)
    table.add_row("family", f"{run.plan['model_type']} ({settings['source']})")
    table.add_row("by", str(settings["recording"] or settings["command"] or settings["llm"]))
    table.add_row("replies", f"{talk.steps} of {settings['max_steps']}")
    table.add_row("tokens", f"{tokens['input']} in ({tokens['cached']} cached), {tokens['output']} out")
    table.add_row("dollars", f"{talk.usd:.4f} of {settings['budget_usd']:g}")
    table.add_row(
        "acceptances",
        ", ".join("passed" if one["passed"] else "failed" for one in talk.submissions) or "none",
    )
    return table


def _entry(entry: Entry) -> Iterator[RenderableType]:
    kind = entry["kind"]
    if kind == "event":
        yield Text(str(entry["text"]), "dim")
    elif kind == "prompt":
        length = sum(len(str(message["content"])) for message in entry["messages"])
        yield Text(f"\nprompt: {length} characters, in {FILE}", "bold")
    elif kind == "reply":
        usage = entry["usage"]
        cost = f"{usage['input']} in, {usage['output']} out, ${entry['usd']:.4f}, {entry['seconds']:g} s"
        yield Text(f"\nstep {entry['step']} ({cost})", "bold")
        if entry["message"].get("content"):
            yield Text(str(entry["message"]["content"]))
        for call in entry["message"].get("tool_calls") or []:
            yield Text(f"-> {call['function']['name']}", "cyan")
            yield Padding(Text(_arguments(call["function"])), (0, 0, 0, 3))
    elif kind in ("result", "said"):
        lines = str(entry["text"]).splitlines()
        more = [f"({len(lines) - SHOWN_LINES} more lines)"] if len(lines) > SHOWN_LINES else []
        yield Padding(Text("\n".join([*lines[:SHOWN_LINES], *more]), "dim"), (0, 0, 0, 3))


def _arguments(function: Mapping[str, Any]) -> str:
    try:
        found = json.loads(function["arguments"])
    except ValueError:
        return str(function["arguments"])
    return "\n".join(f"{name}: {value}" for name, value in found.items())


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
