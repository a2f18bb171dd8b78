"""Which sides must agree about a tokenizer, and on which texts? Of the workspace's, and of runs'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.files.find import find
from ptw.files.read import Row, read
from ptw.runs.open import SENTENCE_MODULES
from ptw.runs.record import RunRecord, model_folder
from ptw.tokens import awkward, awkward_events, sides
from ptw.tokens.awkward_chats import AwkwardChat, chats
from ptw.tokens.awkward_events import AwkwardEvents
from ptw.tokens.closing import closing
from ptw.tokens.declared import open_tokenizer, source_folder
from ptw.tokens.events import items_of
from ptw.tokens.sides import Side
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.workspace.manifest import DatasetEntry, SemanticIdsEntry, TokenizerEntry, Workspace, tokenizer_entry

RANDOM = {"practice": 100, "acceptance": 1000}  # texts
SEQUENCES = {"practice": 50, "acceptance": 500}  # of events, where they have fields
EVENTS = 8  # of a row of a dataset
ROWS = 5  # of each dataset
TOKENS = 64  # of the vocabulary, evenly
ADDED = 24  # tokens that texts are built around
HERE = "the trainer"
# another pipeline that does the same is nothing to speak of
OF_SOURCE = ("round_trip", "templates", "texts", "vocabulary")


@dataclass(frozen=True)
class Held:
    """A side, and which of its answers must be the trainer's: the rest is said, and fails nothing."""

    side: Side
    binds: tuple[str, ...] | None = None  # VERIFIER/METRIC; None: all
    asked: tuple[str, ...] | None = None  # verifiers; None: all

    def must(self, verifier: str, metric: str) -> bool:
        return self.binds is None or f"{verifier}/{metric}" in self.binds


@dataclass(frozen=True)
class Subject:
    """One tokenizer, ready to be compared."""

    name: str
    trainer: Side
    others: tuple[Held, ...]
    inputs: Mapping[str, Mapping[str, Any]]  # by name texts, the trainer's ids of them, chats, events
    remarks: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()  # sides and texts that could not be had, and why
    failures: tuple[str, ...] = ()


@dataclass
class _Found:
    """The sides of a folder, while they are opened."""

    held: list[Held] = field(default_factory=list)
    again: Tokenizer | None = None  # the folder, as ptw opens it
    remarks: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def told(self, name: str) -> Iterator[str]:
        """What can't be opened is a failure of this side."""
        try:
            yield name
        except PtwError as error:
            self.failures.append(f"{name}: {error}")


def declared(workspace: Workspace, name: str, folder: Path, level: str, seed: int) -> Subject:
    """A tokenizer of workspace.toml, exported into `folder` for this."""
    tokenizer = open_tokenizer(workspace, name)
    tokenizer.save(folder)
    found = _of_export(folder)
    found.held += _of_source(workspace, workspace.tokenizers[name], tokenizer)
    return _subject(workspace, name, tokenizer, found, level, seed)


def trained(workspace: Workspace, record: RunRecord, level: str, seed: int) -> Subject:
    """A run's exported model, held to the tokenizer that it was trained with."""
    folder = model_folder(record)
    found = _of_export(folder)
    tokenizer = _of_run(workspace, record, folder, found)
    if (folder / SENTENCE_MODULES).is_file():
        tokenizer = closing(tokenizer)
    return _subject(workspace, record.name, tokenizer, found, level, seed)


def _of_run(workspace: Workspace, record: RunRecord, folder: Path, found: _Found) -> Tokenizer:
    """The tokenizer of the run: as its plan makes it, or the export's own where that has moved on since."""
    entry = tokenizer_entry(**record.plan["tokenizer"])
    made, why = None, "what it is made from has changed"
    try:
        made = open_tokenizer(_at_the_time(workspace, record, entry), entry.name)
    except PtwError as error:
        why = str(error)
    if made is not None and record.fingerprint in (None, made.fingerprint):
        return made
    own = found.again
    if own is not None and own.fingerprint == record.fingerprint:
        found.remarks.append(f"tokenizer {entry.name} can't be made again as the run had it: {why}")
        return own
    if made is None:
        raise PtwError(f"run {record.name}: neither its export nor tokenizer {entry.name} is whole: {why}")
    found.failures.append(
        f"neither its export nor tokenizer {entry.name} of today has the fingerprint {record.fingerprint} "
        f"that the run was trained with: restore {folder}, or train again"
    )
    return made


def _at_the_time(workspace: Workspace, record: RunRecord, entry: TokenizerEntry) -> Workspace:
    datasets = {
        name: DatasetEntry(**{**table, "source": tuple(table["source"])})
        for name, table in record.plan["datasets"].items()
    }
    codes = {name: SemanticIdsEntry(**table) for name, table in record.plan.get("semantic_ids", {}).items()}
    tokenizers = {entry.name: entry}
    return Workspace(workspace.root, workspace.name, {}, tokenizers, datasets, {}, {}, semantic_ids=codes)


def _of_export(folder: Path) -> _Found:
    """The sides that open an exported folder, what is not installed, and what could not open it."""
    found = _Found()
    with found.told("the export, opened again") as name:
        found.again = load_tokenizer(folder)
        found.held.append(Held(sides.trained(name, found.again)))
    with found.told("AutoTokenizer on the export") as name:
        found.held.append(Held(sides.plain(name, folder, found.again)))
    with found.told("tokenizer.json of the export") as name:
        found.held.append(Held(sides.alone(name, folder)))
    if not sides.vllm_is_there():
        found.missing.append("vLLM was not compared: it is not installed")
        return found
    with found.told("vLLM on the export") as name:
        found.held.append(Held(sides.vllm(name, folder)))
    return found


def _of_source(workspace: Workspace, entry: TokenizerEntry, tokenizer: Tokenizer) -> list[Held]:
    """The checkpoint as others open it. Its tokenizer.json is the truth, AutoTokenizer may err."""
    folder = source_folder(workspace.root, entry)
    if folder is None or entry.semantic_ids or entry.special_tokens:  # it lacks what the workspace adds
        return []
    held = [Held(sides.plain("AutoTokenizer on the source", folder, tokenizer), (), OF_SOURCE)]
    if entry.chat_template is not None:  # the workspace's own is another on purpose
        held = [replace(one, side=replace(one.side, chat_with=None)) for one in held]
    if (folder / "tokenizer.json").is_file():
        held.append(Held(sides.alone("tokenizer.json of the source", folder), ("texts/ids",), OF_SOURCE))
    return held


def _subject(
    workspace: Workspace, name: str, tokenizer: Tokenizer, found: _Found, level: str, seed: int
) -> Subject:
    trainer = sides.trained(HERE, tokenizer)
    texts, talks = dict(awkward.fixed()), _chats(tokenizer)
    exported = [held.side for held in found.held if held.binds is None]
    added = list(dict.fromkeys(token for side in (trainer, *exported) for token in side.added if token))
    texts |= dict(awkward.around_tokens(added[:ADDED]))
    texts |= dict(awkward.at_random(seed, RANDOM[level], added))
    texts |= _of_vocabulary(trainer)
    for dataset in workspace.datasets.values():
        try:
            of_rows, chats_of_rows = _of_dataset(workspace.root, dataset)
        except PtwError as error:
            found.missing.append(f"no texts of dataset {dataset.name}: {error}")
            continue
        texts |= of_rows
        talks |= chats_of_rows if talks else {}
    ids = {key: trainer.encode(text) for key, text in texts.items()}
    return Subject(
        name,
        trainer,
        tuple(found.held),
        {"texts": texts, "chats": talks, "ids": ids, "events": _events(workspace, tokenizer, level, seed)},
        (*tokenizer.notes, *found.remarks),
        tuple(found.missing),
        tuple(found.failures),
    )


def _events(workspace: Workspace, tokenizer: Tokenizer, level: str, seed: int) -> dict[str, AwkwardEvents]:
    """None of a tokenizer without fields; of datasets the rows that it takes."""
    found = dict(awkward_events.at_random(tokenizer, seed, SEQUENCES[level]))
    entries = workspace.datasets.values() if tokenizer.fields else ()
    for dataset in (entry for entry in entries if entry.format == "event"):
        with suppress(PtwError):  # training says what is wrong with a file, or a row
            for row in islice(_rows(workspace.root, dataset), ROWS):
                items_of(row.value)
                found[row.place] = awkward_events.of_row(tokenizer, row.value, EVENTS)
    return found


def _chats(tokenizer: Tokenizer) -> dict[str, AwkwardChat]:
    """None of a tokenizer without a template."""
    if not tokenizer.hf.chat_template:
        return {}
    try:
        return chats(tokenizer.template.options)
    except Exception:  # a template that can't be parsed says so where it is rendered
        return chats()


def _of_vocabulary(trainer: Side) -> dict[str, str]:
    """Tokens from all over the vocabulary, alone and with the next one."""
    ids = sorted(set(trainer.vocabulary.values()))
    step = max(1, len(ids) // TOKENS)
    found = {}
    for at in range(0, len(ids), step):
        for count in (1, 2):
            text = trainer.decode(ids[at : at + count])
            if text:
                found[f"token {ids[at]}{' and the next' if count > 1 else ''}"] = text
    return found


def _of_dataset(root: Path, dataset: DatasetEntry) -> tuple[dict[str, str], dict[str, AwkwardChat]]:
    """A few rows, as texts and as chats; whether they fit their format is said where they are trained on."""
    texts, talks = {}, {}
    for row in islice(_rows(root, dataset), ROWS):
        messages, items, tools = (row.value.get(key) for key in ("messages", "items", "tools"))
        said = [row.value.get(key) for key in ("text", "query", "positive")]
        said += [" ".join(map(str, items))] if isinstance(items, list) else []
        if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
            talks[row.place] = AwkwardChat(messages, tools if isinstance(tools, list) else None)
            said += [message.get("content") for message in messages]
        for number, text in enumerate(said):
            if isinstance(text, str) and _is_text(text):
                texts[f"{row.place} {number}"] = text
    return texts, talks


def _rows(root: Path, dataset: DatasetEntry) -> Iterator[Row]:
    for file in find(root, dataset.source):
        yield from read(file)


def _is_text(text: str) -> bool:
    """JSON can say half a surrogate pair, which no tokenizer takes."""
    return not any(0xD800 <= ord(one) < 0xE000 for one in text)
