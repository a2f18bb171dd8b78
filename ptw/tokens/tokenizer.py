"""Which ids stand for a text, a chat or an item, and is it the same tokenizer as before?"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ptw.errors import PtwError
from ptw.tokens import fields as event_fields
from ptw.tokens import fingerprint, grown
from ptw.tokens.chat import Chat, Message
from ptw.tokens.events import Event, events_in
from ptw.tokens.fields import Fields
from ptw.tokens.grown import Items, Vocabularies
from ptw.tokens.pipeline import PROBES, build
from ptw.tokens.semantic import SemanticIds

_CHAT_PROBES: tuple[tuple[list[Message], list[Any] | None], ...] = (
    ([{"role": "user", "content": "Hi 12 "}, {"role": "assistant", "content": " Yes.\n"}], None),
    (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "<think>\nb\n</think>\n\nc"},
            {"role": "user", "content": "d"},
        ],
        [
            {
                "type": "function",
                "function": {"name": "f", "description": "g", "parameters": {"type": "object"}},
            }
        ],
    ),
)


class Tokenizer:
    """HF's tokenizer, and what ptw must know of it. `notes` says what was put right or is off."""

    def __init__(
        self,
        hf: Any,
        name: str,
        notes: tuple[str, ...] = (),
        stop_ids: frozenset[int] = frozenset(),
        is_automatic: bool = False,
        vocabularies: Vocabularies = MappingProxyType({}),
        fields: Fields | None = None,
    ) -> None:
        self.hf = hf
        self.name = name
        self.notes = notes
        self.is_automatic = is_automatic  # `hf` is what AutoTokenizer gives, unchanged
        self.vocabularies = dict(vocabularies)  # of semantic IDs
        self.items = Items(self.vocabularies)
        self.fields = fields or Fields()  # of events
        self.own_stops = stop_ids  # of the checkpoint's generation_config.json
        self._vocabulary: dict[str, int] = hf.get_vocab()
        if not self._vocabulary:
            raise PtwError(f"tokenizer {name} has an empty vocabulary")
        self.size = max(self._vocabulary.values()) + 1  # ids are below it
        self.pad_id: int | None = hf.pad_token_id
        self.bos_id: int | None = hf.bos_token_id
        self.eos_id: int | None = hf.eos_token_id
        added = hf.added_tokens_decoder
        self.added_ids = frozenset(added)
        specials = {str(token) for token in added.values() if token.special} | set(hf.all_special_tokens)
        self.special_ids = frozenset(
            self._vocabulary[token] for token in specials if token in self._vocabulary
        )
        self.template = Chat(hf, name, sorted(specials))

    def having(self, hf: Any = None, vocabularies: Vocabularies | None = None) -> "Tokenizer":
        """The same with another tokenizer of transformers, or other vocabularies."""
        own = self.vocabularies if vocabularies is None else vocabularies
        automatic = self.is_automatic and hf is None
        return Tokenizer(hf or self.hf, self.name, self.notes, self.own_stops, automatic, own, self.fields)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of a text; `special` adds what the tokenizer puts around a text."""
        return self.encode_with_starts(text, special)[0]

    def text_ids(self, text: str) -> list[int]:
        """The ids of a text as a document of its own: between those that begin and end one, if there are."""
        begin, end = ([] if id_ is None else [id_] for id_ in (self.bos_id, self.eos_id))
        return [*begin, *self.encode(text), *end]

    def encode_with_starts(self, text: str, special: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids, and from which to which character of `text` each stands for."""
        try:
            encoded = self.hf(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        except Exception as error:  # the Rust side raises plain exceptions
            raise PtwError(f"tokenizer {self.name} can't encode {_short(text)}: {error}") from error
        return encoded["input_ids"], encoded["offset_mapping"]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.hf.decode(list(ids)))

    def chat(
        self, messages: list[Message], tools: list[Any] | None = None, prompt: bool = False
    ) -> list[int]:
        """The ids of the template's text; `prompt` adds what generation starts from."""
        return self.encode(self.template.text(messages, tools, prompt))

    def item_ids(self, items: Sequence[str]) -> list[int]:
        """The ids of each, `item_length` of them. PtwError: an item has none, or is a special token."""
        for item in self.unknown_items(items):
            raise PtwError(
                f"item {item!r} is not in tokenizer {self.name}; add it to the items, or drop the event"
            )
        return [id_ for item in items for id_ in self._ids_of(item)]

    def events(
        self, items: Sequence[str | None], values: Mapping[str, Any], first: int | None = None
    ) -> list[Event]:
        """The first so many events of a row, or all: each item's ids, and those of its fields around it.

        items: None is one that is asked for, and has no ids. values: of the row; where the tokenizer has no
        fields they say nothing. PtwError without the row's place, as of `item_ids` and of `Fields.labels`.
        """
        kept = items if first is None else items[:first]
        own = [() if item is None else tuple(self.item_ids([item])) for item in kept]
        if not self.fields:
            return [Event((), item, ()) for item in own]
        sides = self.fields.sides(values, len(items), len(kept))
        return [Event(self._each(b), item, self._each(a)) for item, (b, a) in zip(own, sides, strict=True)]

    def told(self, ids: Sequence[int]) -> list[dict[str, str | None]]:
        """Of each event of these ids the labels of its fields, which `events` made tokens of."""
        sides = {id_: self.fields.side_of[token] for id_, token in self.field_ids.items()}
        begun = ids[1:] if ids and ids[0] == self.bos_id else ids
        said = []
        for event in events_in(begun, sides, self.item_length):
            tokens = [self.field_ids[id_] for id_ in (*event.before, *event.after)]
            said.append({name: one for token in tokens for name, one in self.fields.said[token].items()})
        return said

    @cached_property
    def field_ids(self) -> dict[int, str]:
        """Of each id of fields of events its token."""
        return {self._vocabulary[token]: token for token in self.fields.said}

    @cached_property
    def unlearnt_ids(self) -> list[int]:
        """Those of fields that no model learns to say."""
        return [self._vocabulary[token] for token in self.fields.unlearnt]

    @property
    def item_names(self) -> tuple[str, ...]:
        """Of a tokenizer with a token for each item: all of them, in the order of their ids."""
        known = sorted((id_, token) for token, id_ in self._vocabulary.items())
        return tuple(token for id_, token in known if id_ not in self.special_ids)

    def unknown_items(self, items: Sequence[str]) -> list[str]:
        """Those that have no ids, or that are special tokens."""
        return [item for item in items if not self._ids_of(item)]

    @property
    def item_length(self) -> int:
        """How many ids an item has: one, or as many as semantic IDs have levels."""
        return max((ids.levels for ids in self.vocabularies.values()), default=1)

    def code_ids(self, name: str) -> list[list[int]]:
        """Of a vocabulary of semantic IDs: for each level the id of each code."""
        ids = self.vocabularies[name]
        return [
            [self._vocabulary[ids.token(level, code)] for code in range(ids.codebook_size)]
            for level in range(ids.levels)
        ]

    def _ids_of(self, item: str) -> list[int]:
        if self.vocabularies:
            return [self._vocabulary[token] for token in self.items.tokens(item) or ()]
        id_ = self._vocabulary.get(item, -1)
        return [] if id_ == -1 or id_ in self.special_ids else [id_]

    def _each(self, tokens: Sequence[str]) -> tuple[int, ...]:
        return tuple(self._vocabulary[token] for token in tokens)

    @property
    def stop_ids(self) -> set[int]:
        """The ids that end an answer: the end of text, and of an assistant's turn."""
        stops = set(self.own_stops) | ({self.eos_id} if self.eos_id is not None else set())
        return stops | self._turn_stop

    @property
    def answer_ids(self) -> list[int]:
        """The ids that an answer may have: of the special ones those that end it."""
        return sorted(set(range(self.size)) - (self.special_ids - self.stop_ids))

    @cached_property
    def _turn_stop(self) -> set[int]:
        if not self.hf.chat_template:
            return set()
        try:
            ids = self.encode(self.template.closing)
        except PtwError:
            return set()  # rendering a chat says it
        return {ids[-1]} & self.special_ids

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the vocabulary and the ids of awkward texts and chats: equal means equal ids."""
        return fingerprint.of(self.probed)

    @cached_property
    def probed(self) -> dict[str, Any]:
        """What the fingerprint is made of."""
        digests = {name: ids.digest for name, ids in self.vocabularies.items()}
        return {
            **({"semantic_ids": digests} if digests else {}),
            **({"fields": self.fields.as_json()} if self.fields else {}),
            "vocabulary": sorted((id_, token) for token, id_ in self._vocabulary.items()),
            "special": [self.bos_id, self.eos_id, sorted(self.special_ids)],
            "texts": [self._probed(probe) for probe in PROBES],
            "chats": [self._probed_chat(*probe) for probe in _CHAT_PROBES],
        }

    def _probed(self, text: str) -> list[int] | None:
        try:
            return self.encode(text)
        except PtwError:
            return None  # an item tokenizer has no ids for a text

    def _probed_chat(self, messages: list[Message], tools: list[Any] | None) -> list[int] | None:
        try:
            return self.chat(messages, tools, prompt=True)
        except PtwError:
            return None

    def save(self, folder: Path) -> None:
        """Write it in HF's format, with its fingerprint: plain AutoTokenizer gives the same ids."""
        try:
            self.hf.save_pretrained(str(folder))
            grown.save(folder, self.vocabularies)
            self.fields.save(folder)
            fingerprint.write(folder, self)
        except OSError as error:
            raise PtwError(f"tokenizer {self.name} can't be written to {folder}: {error}") from error


def vocabulary_of(tokenizer: Tokenizer, name: str | None = None) -> SemanticIds:
    """The one that is named, or the only one; PtwError where there is none, or several and none is named."""
    known = tokenizer.vocabularies
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name is None or name not in known:
        there = ", ".join(known) or "none"
        raise PtwError(f"tokenizer {tokenizer.name}: which semantic_ids? It has {there}")
    return known[name]


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint's folder; its own tokenizer.json is the truth where it has one.

    PtwError if ptw has saved it and it gives other ids since.
    """
    return open_folder(folder, folder.name)


def open_folder(folder: Path, name: str) -> Tokenizer:
    """The tokenizer of a folder, under this name; PtwError as of `load_tokenizer`."""
    hf, notes = build(folder, name)
    stops, vocabularies, fields = _generation_stops(folder), grown.read(folder), event_fields.read(folder)
    lacking = [token for token in fields.said if token not in hf.get_vocab()]
    if lacking:
        raise PtwError(
            f"{folder}: its tokenizer lacks {lacking[0]!r}, of {event_fields.FILE}; export it again"
        )
    found = Tokenizer(hf, name, notes, stops, not notes, vocabularies, fields)
    fingerprint.demand(folder, found)
    return found


def _generation_stops(folder: Path) -> frozenset[int]:
    """The ids at which the checkpoint's own generation_config.json stops."""
    file = folder / "generation_config.json"
    try:
        stops = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    except (ValueError, AttributeError, OSError) as error:
        raise PtwError(f"{file}: not a JSON object ({error}); fetch the file again") from error
    return frozenset(stops if isinstance(stops, list) else [] if stops is None else [stops])


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
