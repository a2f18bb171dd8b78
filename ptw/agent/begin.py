"""What is known before an LLM is asked? The reading, what accepted ports are worth here, the first prompt."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptw.agent import prompt, warm
from ptw.agent.conversation import Message
from ptw.agent.desk import Desk
from ptw.agent.loop import Accepted
from ptw.agent.reading import family, nearest
from ptw.agent.reading.pages import Page, reading_list


@dataclass(frozen=True)
class Read:
    """What was found out about the family before anything is written."""

    facts: family.Facts
    neighbours: Sequence[nearest.Neighbour]
    pages: Sequence[Page]

    def __str__(self) -> str:
        listed = ", ".join(f"{page.name} {page.tokens}" for page in self.pages)
        return f"read {sum(page.tokens for page in self.pages)} tokens: {listed}"


def read(root: Path, model_type: str) -> Read:
    """Draws the family's practice cases, which practice then finds drawn."""
    with tempfile.TemporaryDirectory(prefix="ptw-reading-") as folder:
        facts = family.facts(model_type, root, Path(folder))
    neighbours = nearest.nearest(facts, root)
    return Read(facts, neighbours, reading_list(facts, neighbours, root))


def first_prompt(desk: Desk, draft: warm.Draft | None) -> list[Message]:
    """The first prompt; of the port that the draft was made of only the draft is shown."""
    if draft is None:
        return prompt.messages(desk.name, desk.model_type, "The file is empty.", desk.pages)
    shown = [page for page in desk.pages if page.name != f"models/{draft.port}.py"]
    shown.append(Page(desk.name, draft.text))
    return prompt.messages(desk.name, desk.model_type, draft.described, shown)


def warm_start(found: Read, desk: Desk, say: Callable[[str], None]) -> Accepted | warm.Draft | None:
    """Accepted without an LLM, or the draft that was put into the worktree, or nothing."""
    tried = []
    for draft in warm.drafts(found.facts, found.neighbours, desk, say):
        tried.append(draft)
        if not draft.fits:
            say(f"{draft.port} does not fit: {draft.why_not or _told(draft)}")
            continue
        say(f"{draft.port} passes practice: acceptance")
        verdict = desk.accept(draft.text)
        say(f"acceptance of {draft.port}: {verdict.brief}")
        if verdict.passed and not verdict.refused:
            return Accepted(draft.text, verdict)
    if not tried:
        return None
    best = next((draft for draft in tried if draft.verdict is not None), tried[0])
    desk.file.parent.mkdir(exist_ok=True)
    desk.file.write_text(best.text, encoding="utf-8")
    return best


def _told(draft: warm.Draft) -> str:
    assert draft.verdict is not None
    refused = f"refuses {len(draft.verdict.refused)} cases" if draft.verdict.refused else ""
    return "; ".join(filter(None, ["" if draft.verdict.passed else draft.verdict.brief, refused]))
