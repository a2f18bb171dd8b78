"""The reading list of a family: what it runs on, what it is made of, what a port is, and ports like it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ptw.agent.reading import api, family
from ptw.agent.reading.family import Facts
from ptw.agent.reading.nearest import Neighbour
from ptw.verify.reference import source
from ptw.workspace import rooms

CHARACTERS_A_TOKEN = (
    3.0  # of code: fewer than any current tokenizer's, so that nothing is larger than it is said
)
DENSE_TOKENS, LARGEST_TOKENS = 25_000, 60_000
PORTS = 2  # besides the draft


@dataclass(frozen=True)
class Page:
    """`name` is a path that the author's tools know."""

    name: str
    text: str

    @property
    def tokens(self) -> int:
        return count(self.text)


def count(text: str) -> int:
    """Tokens, rather too many than too few."""
    return int(len(text) / CHARACTERS_A_TOKEN)


def reading_list(found: Facts, neighbours: list[Neighbour], root: Path | None) -> tuple[Page, ...]:
    """The most needed first; ports like it as far as they fit."""
    needed = [
        *(Page(f"reference/{name}", text) for name, text in source.modeling(found.model_type).items()),
        Page("family.md", family.page(found)),
        Page("port.md", api.port_api()),
        Page("gate.md", "\n".join(_verifiers(rooms.files(root, "verifiers")))),
    ]
    total = sum(page.tokens for page in needed)
    limit = max(DENSE_TOKENS, min(LARGEST_TOKENS, 2 * needed[0].tokens + DENSE_TOKENS // 2))
    for neighbour in neighbours[:PORTS]:
        page = Page(f"models/{neighbour.port.file.name}", neighbour.port.file.read_text(encoding="utf-8"))
        if total + page.tokens <= limit:
            needed.append(page)
            total += page.tokens
    return tuple(needed)


def _verifiers(files: Mapping[str, Path]) -> Iterator[str]:
    """What each verifier holds a port to, in its own words, and the limits of its metrics."""
    yield "# What a port is held to"
    for name, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        limits = next((node for node in tree.body if _is_limits(node)), None)
        module = rooms.load(file)
        if getattr(module, "SUBJECT", "port") != "port":
            continue
        levels = getattr(module, "LEVELS", ())
        when = "" if not levels or "practice" in levels else f" (at {', '.join(levels)} only)"
        yield f"\n## {name}{when}\n{ast.get_docstring(tree) or ''}"
        if limits is not None:
            yield ast.get_source_segment(file.read_text(encoding="utf-8"), limits) or ""
        told = getattr(module, "told", None)  # what an author can't guess
        if told is not None:
            yield told()


def _is_limits(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LIMITS"
