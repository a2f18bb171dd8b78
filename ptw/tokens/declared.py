"""Which tokenizer does a workspace declare: one that is there, or one that is made of its data?"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub

from ptw.errors import NotBuilt, PtwError
from ptw.files.find import content_digest, find
from ptw.files.read import Row, read
from ptw.tokens import fields as event_fields
from ptw.tokens import grown, merges, semantic
from ptw.tokens.cache import cached
from ptw.tokens.events import items_of
from ptw.tokens.fields import Fields
from ptw.tokens.items import build_items
from ptw.tokens.learn import CHATML, learn, texts_of
from ptw.tokens.merges import Side
from ptw.tokens.tokenizer import Tokenizer, open_folder
from ptw.workspace.manifest import TokenizerEntry, Workspace
from ptw.workspace.places import OF_A_RUN


def open_tokenizer(workspace: Workspace, name: str) -> Tokenizer:
    """The tokenizer that the workspace declares; what is built from its data is built once, then kept."""
    if name not in workspace.tokenizers:
        known = ", ".join(workspace.tokenizers) or "none"
        raise PtwError(f"workspace.toml has no tokenizer {name!r}; it has: {known}")
    entry = workspace.tokenizers[name]
    found = _declared(workspace, entry)
    if entry.vocab_size is not None and len(found.hf) < entry.vocab_size:
        taught = f"its data taught {len(found.hf)} tokens, fewer than vocab_size {entry.vocab_size}"
        found.notes += (f"tokenizer {name}: {taught}",)
    if entry.chat_template is not None:
        found.hf.chat_template = _template(workspace.root / entry.chat_template, name)
    elif not entry.semantic_ids and not entry.special_tokens and not entry.fields:
        return found
    opened = {one: workspace.semantic_ids[one] for one in entry.semantic_ids}
    vocabularies = {
        one: semantic.open_semantic_ids(workspace.root, declared) for one, declared in opened.items()
    }
    fields = _fields(workspace, entry)
    hf = grown.grow(found.hf, name, vocabularies, [*entry.special_tokens, *fields.said])
    notes = (*found.notes, *_few_merges(entry, fields))
    return Tokenizer(hf, name, notes, found.own_stops, vocabularies=vocabularies, fields=fields)


def _declared(workspace: Workspace, entry: TokenizerEntry) -> Tokenizer:
    """Without what the workspace adds to it."""
    folder = source_folder(workspace.root, entry)
    if folder is None and entry.items is not None:
        folder = _items_folder(workspace, entry, (entry.items,))
    elif folder is None and entry.learn_from is None and entry.semantic_ids:
        return Tokenizer(grown.of_codes_alone(entry.name), entry.name)
    return open_folder(folder or _learnt_folder(workspace, entry), entry.name)


def extended(workspace: Workspace, tokenizer: Tokenizer) -> Tokenizer:
    """A model's tokenizer with the items that `ptw vocab extend` has added to its vocabularies since.

    The same object where there are none, or where an old item has other codes in what is declared now.
    """
    newer = {}
    for name, own in tokenizer.vocabularies.items():
        entry = workspace.semantic_ids.get(name)
        if entry is not None and semantic.versions(workspace.root, name):
            found = semantic.open_semantic_ids(workspace.root, entry)
            if found.digest != own.digest and not found.changed(own):
                newer[name] = found
    if not newer:
        return tokenizer
    return tokenizer.having(vocabularies={**tokenizer.vocabularies, **newer})


def came_later(tokenizer: Tokenizer, own: Tokenizer) -> frozenset[str]:
    """The items that `extended` added to a model's own tokenizer."""
    both = ((found, own.vocabularies[name]) for name, found in tokenizer.vocabularies.items())
    return frozenset(
        item for found, old in both if found is not old for item in found.items if item not in old.row_of
    )


def source_folder(root: Path, entry: TokenizerEntry) -> Path | None:
    """The folder of the checkpoint that the tokenizer is; None for one that is made from data."""
    if entry.hf is None:
        return None
    of_a_run = OF_A_RUN.fullmatch(entry.hf)
    if of_a_run and not (root / entry.hf).is_dir():
        made = f"`ptw train {of_a_run['recipe']}` makes it"
        raise NotBuilt(f"tokenizer {entry.name}: {entry.hf} is not there yet; {made}")
    return _checkpoint(root, entry.hf, entry.revision, entry.name)


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


def _fields(workspace: Workspace, entry: TokenizerEntry) -> Fields:
    """Those that are declared, with the merges that their dataset teaches; learnt once, then kept."""
    plain = Fields(entry.fields.values())
    if entry.merges_from is None:
        return plain
    parts = [share.dataset for share in workspace.datasets[entry.merges_from].parts]
    content = [
        text for part in parts for text in (content_digest(find(workspace.root, part.source)), part.leave_out)
    ]
    digest = _digest("merges", *map(str, content), str(entry.merges), json.dumps(plain.as_json()))
    return event_fields.read(cached(workspace.root, digest, lambda: _with_merges(workspace, entry, plain)))


def _with_merges(workspace: Workspace, entry: TokenizerEntry, plain: Fields) -> Fields:
    sides: Counter[Side] = Counter()
    assert entry.merges_from is not None
    for share in workspace.datasets[entry.merges_from].parts:
        for row in _rows(workspace, share.dataset.source):
            try:
                items = items_of(row.value)
                kept = max(len(items) - share.dataset.leave_out, 0)
                sides.update(side for both in plain.sides(row.value, len(items), kept) for side in both)
            except PtwError as error:
                raise PtwError(f"{row.place}: {error}") from error
    return Fields(plain.declared, merges.learn(sides, entry.merges, plain.may_join))


def _few_merges(entry: TokenizerEntry, fields: Fields) -> Iterator[str]:
    if len(fields.merges) < entry.merges:
        taught = f"its data taught {len(fields.merges)} merges, fewer than merges = {entry.merges}"
        yield f"tokenizer {entry.name}: {taught}"


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
