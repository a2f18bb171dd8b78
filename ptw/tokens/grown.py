"""Which tokens does a tokenizer have beside its own: those of semantic IDs, and further special ones?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ptw.errors import PtwError
from ptw.tokens import semantic
from ptw.tokens.items import build_items
from ptw.tokens.semantic import SemanticIds
from ptw.workspace.manifest import BUILT

Vocabularies = Mapping[str, SemanticIds]
T = TypeVar("T")


def grow(hf: Any, name: str, vocabularies: Vocabularies, special: Sequence[str]) -> Any:
    """The tokenizer with all tokens of these vocabularies, whole code spaces, in the order that is declared.

    They are never split, and are no special tokens: a model may say them. Those of fields of events are
    among `special`, for they are neither items nor text. PtwError where it has one already.
    """
    from tokenizers import AddedToken

    known = hf.get_vocab()
    codes = [token for ids in vocabularies.values() for token in ids.tokens]
    for token in [*codes, *special]:
        if token in known:
            raise PtwError(
                f"tokenizer {name}: it has a token {token!r} already; give the new one another name"
            )
    hf.add_tokens([AddedToken(token, normalized=False, special=False) for token in codes])
    hf.add_tokens(
        [AddedToken(token, normalized=False, special=True) for token in special], special_tokens=True
    )
    return hf


def of_codes_alone(name: str) -> Any:
    """A tokenizer with nothing but what begins, ends and pads: for a model from scratch over semantic IDs."""
    return build_items((), name)


def save(folder: Path, vocabularies: Vocabularies) -> None:
    """Beside the tokenizer, so that whoever has the model knows its items."""
    for name, ids in vocabularies.items():
        target = folder / BUILT / name
        target.mkdir(parents=True, exist_ok=True)
        semantic.write_version(target, ids)


def read(folder: Path) -> dict[str, SemanticIds]:
    """Those that were saved beside a tokenizer."""
    found = sorted((folder / BUILT).glob(f"*/{semantic.FACTS}"))
    return {file.parent.name: semantic.read_version(file.parent) for file in found}


class Items:
    """What the items of vocabularies are called in texts, and which tokens stand for them."""

    def __init__(self, vocabularies: Vocabularies) -> None:
        self._vocabularies = vocabularies
        names = "|".join(map(re.escape, vocabularies))
        self._written = re.compile(rf"<\|({names}):(.+?)\|>") if vocabularies else None
        self._coded = {name: _runs(ids) for name, ids in vocabularies.items()}

    def spelt(self, value: T) -> T:
        """Each <|NAME:ITEM|> of a text becomes the item's tokens; of lists and tables each text in them."""
        return self._each(value, self._spelt) if self._written else value

    def named(self, text: str) -> str:
        """The other way round; codes that no item has stay as they are."""
        for name, pattern in self._coded.items():
            text = pattern.sub(lambda found, name=name: self._named(name, found), text)  # type: ignore[misc]
        return text

    def tokens(self, item: str) -> list[str] | None:
        """Of an item as events name it: by itself where there is one vocabulary, else NAME:ITEM."""
        name, colon, rest = item.partition(":")
        if len(self._vocabularies) == 1:
            ids = next(iter(self._vocabularies.values()))
            return _tokens(ids, item) if item in ids.row_of else None
        if not colon or name not in self._vocabularies or rest not in self._vocabularies[name].row_of:
            return None
        return _tokens(self._vocabularies[name], rest)

    def _spelt(self, text: str) -> str:
        assert self._written is not None
        return self._written.sub(self._tokens_of, text)

    def _tokens_of(self, found: re.Match[str]) -> str:
        ids = self._vocabularies[found[1]]
        if found[2] not in ids.row_of:
            raise PtwError(
                f"{found[0]}: there is no item {found[2]!r} among the {len(ids.items):,} of semantic_ids."
                f"{ids.name}, version {ids.version}; `ptw vocab extend` adds items"
            )
        return "".join(_tokens(ids, found[2]))

    def _named(self, name: str, found: re.Match[str]) -> str:
        ids = self._vocabularies[name]
        item = ids.item_of(tuple(int(code) for code in re.findall(r"\.(\d+)\|>", found[0])))
        return found[0] if item is None else f"<|{name}:{item}|>"

    def _each(self, value: Any, change: Callable[[str], str]) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, list):
            return [self._each(one, change) for one in value]
        if isinstance(value, dict):
            return {key: self._each(one, change) for key, one in value.items()}
        return value


def _tokens(ids: SemanticIds, item: str) -> list[str]:
    codes = ids.codes_NL[ids.row_of[item]].tolist()
    return [ids.token(level, code) for level, code in enumerate(codes)]


def _runs(ids: SemanticIds) -> re.Pattern[str]:
    """A code of each level after another."""
    return re.compile(
        "".join(rf"<\|{re.escape(ids.name)}\.{level}\.\d+\|>\s?" for level in range(ids.levels)).removesuffix(
            r"\s?"
        )
    )
