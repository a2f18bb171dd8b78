"""What is an author of a port told? The task, the rules, and the reading list, as far as it fits at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptw.agent.conversation import Message
from ptw.agent.reading.pages import Page

AT_ONCE_TOKENS = 40_000  # what is longer is read by a tool

FILES = Path(__file__).parent / "words"
RULES, WORK, NO_TOOL, CUT_OFF, FILTERED = (
    (FILES / f"{name}.md").read_text(encoding="utf-8").strip()
    for name in ("rules", "work", "no_tool", "cut_off", "filtered")
)


def messages(name: str, model_type: str, said: str, pages: Sequence[Page]) -> list[Message]:
    """What a conversation begins with; it is `said` where the draft comes from and how it fares."""
    shown, rest = _split(pages)
    parts = [f"The family is {model_type!r}; the file is {name}. {said}", *_listed(shown, rest)]
    parts += [f'<page name="{page.name}">\n{page.text.rstrip()}\n</page>' for page in shown]
    return [
        {"role": "system", "content": f"{RULES}\n\n{WORK}".format(name=name)},
        {"role": "user", "content": "\n\n".join(parts)},
    ]


def chapter(name: str, text: str, practice: str) -> str:
    """How far the work has come, for a conversation that begins again."""
    said = f"The last practice said:\n{practice}\n\n" if practice else ""
    return (
        "The conversation became too long and is left out. Work goes on from the file as it stands.\n\n"
        f'{said}<page name="{name}">\n{text.rstrip()}\n</page>'
    )


def digests(first: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of what a conversation begins with, part by part; of the tools, how they are called."""
    functions = [tool["function"] for tool in tools]
    calls = [
        [one["name"], sorted(one["parameters"]["properties"]), one["parameters"]["required"]]
        for one in functions
    ]
    parts = {"rules": first[0]["content"], "reading": first[1]["content"], "tools": json.dumps(calls)}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in parts.items()}


def _split(pages: Sequence[Page]) -> tuple[list[Page], list[Page]]:
    shown: list[Page] = []
    for page in pages:
        if sum(one.tokens for one in shown) + page.tokens <= AT_ONCE_TOKENS:
            shown.append(page)
    return shown, [page for page in pages if page not in shown]


def _listed(shown: Sequence[Page], rest: Sequence[Page]) -> Iterator[str]:
    names = ", ".join(page.name for page in shown)
    yield f"The reading list stands below: {names}."
    if rest:
        longer = ", ".join(f"{page.name} ({page.tokens} tokens)" for page in rest)
        yield f"To be read by the tool, since they are long: {longer}."
