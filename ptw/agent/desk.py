"""What can an author of a port do? Read, search, write and edit the one file, ask the gate; nothing else."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from ptw.agent import judging
from ptw.agent.judging import Verdict
from ptw.agent.reading.pages import Page
from ptw.errors import PtwError

MOST_LINES, MOST_HITS = 400, 60
MOST_SHOWN = 12  # lines of what an edit made
LARGEST_PORT = 60_000  # characters; ports have fewer than 500 lines


@dataclass(frozen=True)
class Result:
    """`text` is what the author reads; `stable` says the same where times, seeds and versions differ."""

    text: str
    stable: str
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    parameters: Mapping[str, Any]
    act: Callable[..., Result]

    @property
    def schema(self) -> dict[str, Any]:
        """As an OpenAI-compatible endpoint takes it."""
        parameters = {
            "type": "object",
            "properties": self.parameters,
            "required": [name for name, one in self.parameters.items() if not one.get("optional")],
            "additionalProperties": False,
        }
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": _plain(parameters),
            },
        }


@dataclass
class Desk:
    """One port's: `file` is the only one that is ever written. `accept` holds its text to drawn cases."""

    model_type: str
    root: Path  # the worktree's workspace
    pages: Sequence[Page]
    accept: Callable[[str], Verdict]
    most_submissions: int
    submissions: int = 0
    last: Verdict | None = field(default=None, repr=False)

    @property
    def file(self) -> Path:
        return self.root / "models" / f"{self.model_type}.py"

    @property
    def name(self) -> str:
        return f"models/{self.model_type}.py"

    @property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8") if self.file.exists() else ""

    @property
    def shelf(self) -> dict[str, str]:
        """All that may be read."""
        return {page.name: page.text for page in self.pages} | {self.name: self.text}

    def act(self, name: str, arguments: Any) -> Result:
        """What a tool call does; whatever is wrong with the call is its result."""
        tool = next((tool for tool in TOOLS if tool.name == name), None)
        if tool is None:
            return _fault(f"there is no tool {name!r}; there are: {', '.join(one.name for one in TOOLS)}")
        if isinstance(arguments, str):
            return _fault(f"the arguments of {name} are not JSON: {arguments}")
        schema = tool.schema["function"]["parameters"]
        for error in jsonschema.Draft202012Validator(schema).iter_errors(arguments):
            return _fault(f"{name}: {error.message}")
        try:
            return tool.act(self, **arguments)
        except PtwError as error:
            return _unable(str(error))


def read(desk: Desk, path: str, start: int = 1, end: int | None = None) -> Result:
    text = desk.shelf.get(path)
    if text is None:
        return _unable(f"{path!r} is not on the reading list; there are: {', '.join(desk.shelf)}")
    lines = text.splitlines()
    last = min(end or len(lines), start + MOST_LINES - 1, len(lines))
    shown = [f"{number:4d}  {lines[number - 1]}" for number in range(start, last + 1)]
    rest = f"\n({len(lines) - last} more lines)" if last < len(lines) else ""
    return Result("\n".join(shown) + rest if shown else f"{path} has {len(lines)} lines", f"read {path}")


def search(desk: Desk, pattern: str, path: str | None = None) -> Result:
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        return _unable(f"search: {pattern!r} is no regular expression: {error}")
    shelf = {name: text for name, text in desk.shelf.items() if path in (None, name)}
    if not shelf:
        return _unable(f"{path!r} is not on the reading list; there are: {', '.join(desk.shelf)}")
    hits = [
        f"{name}:{number}: {line.strip()}"
        for name, text in shelf.items()
        for number, line in enumerate(text.splitlines(), 1)
        if wanted.search(line)
    ]
    more = f"\n({len(hits) - MOST_HITS} more)" if len(hits) > MOST_HITS else ""
    return Result("\n".join(hits[:MOST_HITS]) + more if hits else "no line matches", "searched")


def write(desk: Desk, text: str) -> Result:
    return _written(desk, text if text.endswith("\n") else text + "\n")


def edit(desk: Desk, old: str, new: str) -> Result:
    text = desk.text
    found = text.count(old) if old else 0
    if found != 1:
        why = (
            f"stands in {desk.name} {found} times: give enough lines around it"
            if found
            else _nearest(old, text, desk)
        )
        return _unable(f"edit: the old text {why}. Nothing was changed")
    start = text[: text.index(old)].count("\n")
    result = _written(desk, text.replace(old, new))
    shown = desk.text.splitlines()[max(0, start - 1) : start + new.count("\n") + 2][:MOST_SHOWN]
    lines = "\n".join(f"{max(1, start) + at:4d}  {line}" for at, line in enumerate(shown))
    return Result(f"{result.text}; it now says\n{lines}", result.stable)


def practice(desk: Desk, verifier: str | None = None) -> Result:
    if not desk.file.exists():
        return _unable(f"practice: there is no {desk.name} yet: write it first")
    verdict = judging.practice(desk.root, desk.model_type, [verifier] if verifier else [])
    desk.last = verdict
    asked = f"practice of {verifier} alone" if verifier else "practice"
    return Result(str(verdict), f"{asked} {verdict.brief}", verdict)


def locate(desk: Desk) -> Result:
    if desk.last is None:
        return _unable("locate: it tells of the last practice, and there was none: call practice first")
    return Result(judging.located(desk.last), "located")


def case(desk: Desk, name: str) -> Result:
    """Practice cases are fixed, and no secret; of acceptance's nothing is kept."""
    found = judging.practice_config(desk.root, name)
    if found is None:
        return _unable(f"case: practice has no case {name!r}; its reports name them, as 00-plain")
    return Result(found, f"case {name}")


def submit(desk: Desk) -> Result:
    """Practice first: an acceptance that must fail is asked for in vain."""
    practised = practice(desk)
    if practised.verdict is None or not practised.verdict.passed:
        return Result(
            f"not submitted, because practice fails:\n{practised.text}",
            f"not submitted: {practised.stable}",
            practised.verdict,
        )
    desk.submissions += 1
    verdict = desk.accept(desk.text)
    left = desk.most_submissions - desk.submissions
    rest = "" if verdict.passed else f"\n{left} more acceptances can be asked for; each draws other cases"
    return Result(str(verdict) + rest, "accepted" if verdict.passed else "rejected", verdict)


TEXT = {"type": "string"}
LINE = {"type": "integer", "minimum": 1}
TOOLS = (
    Tool(
        "read",
        "Read a file of the reading list, or the port as it stands, with line numbers.",
        {
            "path": {
                **TEXT,
                "description": "A page's name as the reading list has it, or the port's own file.",
            },
            "start": {**LINE, "optional": True},
            "end": {**LINE, "optional": True},
        },
        read,
    ),
    Tool(
        "search",
        "Find the lines that match a Python regular expression, in one file of the reading list or in all.",
        {"pattern": TEXT, "path": {**TEXT, "optional": True}},
        search,
    ),
    Tool("write", "Write the whole port file anew.", {"text": TEXT}, write),
    Tool(
        "edit",
        "Replace a piece of the port file. The old text must stand there exactly once, with its indentation.",
        {"old": TEXT, "new": TEXT},
        edit,
    ),
    Tool(
        "practice",
        "Hold the port to the practice cases: by all verifiers, or by one alone, which is quicker. Says what "
        "fails, by how much, in which case, and where port and reference first part.",
        {
            "verifier": {
                **TEXT,
                "optional": True,
                "description": "A heading of gate.md, of those that practice asks.",
            }
        },
        practice,
    ),
    Tool(
        "locate", "Of the last practice: module by module, how far port and reference are apart.", {}, locate
    ),
    Tool(
        "case",
        "The config.json of a practice case, by the name that practice gives it.",
        {"name": TEXT},
        case,
    ),
    Tool(
        "submit",
        "Ask for acceptance, on cases drawn afresh. Only when practice passes. This alone ends the work.",
        {},
        submit,
    ),
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _written(desk: Desk, text: str) -> Result:
    if len(text) > LARGEST_PORT:
        return _unable(f"{desk.name}: {len(text)} characters; a port has at most {LARGEST_PORT}")
    desk.file.parent.mkdir(exist_ok=True)
    desk.file.write_text(text, encoding="utf-8")
    try:
        compile(text, desk.name, "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        return Result(f"written, but it is not Python: line {line}: {error}", f"wrote {digest(text)}")
    return Result(f"written: {len(text.splitlines())} lines", f"wrote {digest(text)}")


def _nearest(old: str, text: str, desk: Desk) -> str:
    """Where something like its first line stands."""
    if not old.strip():
        return "is empty"
    first = next(line for line in old.splitlines() if line.strip())
    lines = text.splitlines()
    close = difflib.get_close_matches(first, lines, n=1, cutoff=0.6)
    where = f"; line {lines.index(close[0]) + 1} is like its first line: {close[0]!r}" if close else ""
    return f"does not stand in {desk.name}{where}"


def _fault(text: str) -> Result:
    """A call that could not be run at all."""
    return Result(f"error: {text}", f"error: {text}")


def _unable(text: str) -> Result:
    """A call that was run and could do nothing."""
    return Result(f"error: {text}", f"unable: {text}")


def _plain(value: Any) -> Any:
    """Without our own mark of what may be left out."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key != "optional"}
    return [_plain(one) for one in value] if isinstance(value, list) else value
