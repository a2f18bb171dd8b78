"""Which ids stand for a text, a chat or an item, and is it the same tokenizer as before?"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub

from ptw.errors import PtwError
from ptw.files.find import content_digest, find
from ptw.files.read import Row, read
from ptw.tokens import fingerprint
from ptw.tokens.cache import cached
from ptw.tokens.chat import Chat, Message
from ptw.tokens.items import build_items
from ptw.tokens.learn import CHATML, learn, texts_of
from ptw.tokens.pipeline import PROBES, build
from ptw.workspace.manifest import TokenizerEntry, Workspace

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
    ) -> None:
        self.hf = hf
        self.name = name
        self.notes = notes
        self.is_automatic = is_automatic  # `hf` is what AutoTokenizer gives, unchanged
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
        """One id an item. PtwError: an item that is no token, or that is a special one."""
        for item in self.unknown_items(items):
            raise PtwError(
                f"item {item!r} is not in tokenizer {self.name}; add it to the items, or drop the event"
            )
        return [self._vocabulary[item] for item in items]

    def unknown_items(self, items: Sequence[str]) -> list[str]:
        """Those that are no token, or a special one."""
        none = self.special_ids | {-1}
        return [item for item in items if self._vocabulary.get(item, -1) in none]

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
        return {
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
            fingerprint.write(folder, self)
        except OSError as error:
            raise PtwError(f"tokenizer {self.name} can't be written to {folder}: {error}") from error


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint's folder; its own tokenizer.json is the truth where it has one.

    PtwError if ptw has saved it and it gives other ids since.
    """
    return _opened(folder, folder.name)


def open_tokenizer(workspace: Workspace, name: str) -> Tokenizer:
    """The tokenizer that the workspace declares; what is built from its data is built once, then kept."""
    if name not in workspace.tokenizers:
        known = ", ".join(workspace.tokenizers) or "none"
        raise PtwError(f"workspace.toml has no tokenizer {name!r}; it has: {known}")
    entry = workspace.tokenizers[name]
    folder = source_folder(workspace.root, entry)
    if folder is None and entry.items is not None:
        folder = _items_folder(workspace, entry, (entry.items,))
    found = _opened(folder or _learnt_folder(workspace, entry), name)
    if entry.vocab_size is not None and len(found.hf) < entry.vocab_size:
        taught = f"its data taught {len(found.hf)} tokens, fewer than vocab_size {entry.vocab_size}"
        found.notes += (f"tokenizer {name}: {taught}",)
    if entry.chat_template is None:
        return found
    found.hf.chat_template = _template(workspace.root / entry.chat_template, name)
    return Tokenizer(found.hf, name, found.notes, found.own_stops)


def source_folder(root: Path, entry: TokenizerEntry) -> Path | None:
    """The folder of the checkpoint that the tokenizer is; None for one that is made from data."""
    if entry.hf is None:
        return None
    return _checkpoint(root, entry.hf, entry.revision, entry.name)


def _opened(folder: Path, name: str) -> Tokenizer:
    hf, notes = build(folder, name)
    found = Tokenizer(hf, name, notes, _generation_stops(folder), is_automatic=not notes)
    fingerprint.demand(folder, found)
    return found


def _items_folder(workspace: Workspace, entry: TokenizerEntry, source: tuple[str, ...]) -> Path:
    files = find(workspace.root, source)
    digest = _digest("items", content_digest(files))
    return cached(
        workspace.root,
        digest,
        lambda: Tokenizer(build_items(_rows(workspace, source), entry.name), entry.name),
    )


def _learnt_folder(workspace: Workspace, entry: TokenizerEntry) -> Path:
    if entry.learn_from is None or entry.learn_from not in workspace.datasets or entry.vocab_size is None:
        raise PtwError(f"tokenizer {entry.name}: `learn_from` must name a dataset, with a `vocab_size`")
    parts = [share.dataset for share in workspace.datasets[entry.learn_from].parts]
    size = entry.vocab_size
    content = [
        text for part in parts for text in (content_digest(find(workspace.root, part.source)), part.format)
    ]
    digest = _digest("learnt", *content, str(size), CHATML.read_text(encoding="utf-8"))
    texts = (
        text for part in parts for text in texts_of(_rows(workspace, part.source), part.format, entry.name)
    )
    return cached(workspace.root, digest, lambda: Tokenizer(learn(texts, size), entry.name))


def _rows(workspace: Workspace, source: tuple[str, ...]) -> Iterator[Row]:
    empty = True
    for file in find(workspace.root, source):
        for row in read(file):
            empty = False
            yield row
    if empty:
        raise PtwError(f"{', '.join(source)}: no rows to make a tokenizer of")


def _digest(*parts: str) -> str:
    # a change of how tokenizers are built here must change the first part
    return hashlib.sha256("\0".join(("1", *parts)).encode()).hexdigest()[:32]


def _checkpoint(root: Path, hf: str, revision: str | None, name: str) -> Path:
    if revision is None or (root / hf).is_dir():
        return root / hf
    wanted = ["*.json", "*.jinja", "*.txt", "*.model"]  # no weights
    try:
        return Path(huggingface_hub.snapshot_download(hf, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of the network, the Hub and the disk
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PtwError(
            f"tokenizer {name}: {hf} at {revision} can't be fetched from the Hub: {reason}"
        ) from error


def _template(file: Path, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PtwError(f"tokenizer {name}: chat_template {file} can't be read ({error})") from error


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
