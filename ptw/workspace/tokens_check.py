"""Can the tokenizers and the vocabularies of semantic IDs be made as workspace.toml says?"""

from collections.abc import Iterator

from ptw.workspace import places
from ptw.workspace.document import Document
from ptw.workspace.entries import Entry, formats_of, tables, text_of, unknown
from ptw.workspace.fields_check import event_problems
from ptw.workspace.problem import Problem, hint_of

ENCODERS = ("lsa", "none")  # that are no models
MADE_OF = ("hf", "items", "learn_from")


def tokenizer_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    path = ("tokenizers", name)
    yield from places.checkpoint_problems(document, path, entry, places.tokenizer_folder_fault)
    for key in ("items", "chat_template"):
        file = text_of(entry, key)
        if file is not None:
            yield from places.file_problems(document, (*path, key), file)
    yield from growth_problems(document, name, entry)
    yield from event_problems(document, name, entry)
    learn_from = text_of(entry, "learn_from")
    if learn_from is None:
        return
    if learn_from not in tables(document, "datasets"):
        yield unknown(document, (*path, "learn_from"), learn_from, "datasets")
    elif "event" in formats_of(document, learn_from).values():
        hint = "name a dataset of chats or text, or make one token of each item with `items`"
        yield document.problem((*path, "learn_from"), learn_from, "a dataset of events has no text", hint)


def growth_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    """What a tokenizer has beside its own tokens."""
    path, given = ("tokenizers", name), [key for key in MADE_OF if key in entry]
    named = entry.get("semantic_ids")
    for number, one in enumerate([named] if isinstance(named, str) else named or []):
        if isinstance(one, str) and one and one not in tables(document, "semantic_ids"):
            hint = hint_of(one, list(tables(document, "semantic_ids")), "semantic_ids")
            place: list[str | int] = [] if isinstance(named, str) else [number]
            where = [*path, "semantic_ids", *place]
            yield document.problem(where, one, f"there is no [semantic_ids.{one}]", hint)
    if named and len(given) > 1:
        hint = "remove one"
        yield document.problem((*path, given[1]), entry[given[1]], f"stands beside {given[0]}", hint)
    for key in ("semantic_ids", "special_tokens"):
        if "items" in entry and key in entry:
            hint = "remove one: with `items` every item is a token of its own, and nothing else is"
            yield document.problem((*path, key), entry[key], "stands beside items", hint)
    if "init" in entry and not ({"semantic_ids", "special_tokens", "fields"} & entry.keys()):
        hint = "remove the line, or add semantic_ids, special_tokens or fields"
        yield document.problem((*path, "init"), entry["init"], "there are no new tokens", hint)


def semantic_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    path = ("semantic_ids", name)
    for key in ("items", "embeddings"):
        file = text_of(entry, key)
        if file is not None:
            yield from places.file_problems(document, (*path, key), file)
    encoder, behaviour = text_of(entry, "encoder"), text_of(entry, "behaviour")
    if encoder is not None and "embeddings" in entry:
        hint = "remove one: they say the same vectors"
        yield document.problem((*path, "encoder"), encoder, "stands beside embeddings", hint)
    if encoder == "none" and behaviour is None:
        hint = "name a dataset of events as behaviour, or remove the line"
        yield document.problem((*path, "encoder"), encoder, "nothing gives the items vectors", hint)
    known = [*ENCODERS, *tables(document, "models"), *tables(document, "recipes")]
    if encoder is not None and encoder not in known and not (document.root / "runs" / encoder).is_dir():
        hint = hint_of(encoder, known, "choices")
        yield document.problem((*path, "encoder"), encoder, "neither a model, a run nor a recipe", hint)
    if behaviour is not None:
        formats = formats_of(document, behaviour)
        if behaviour not in tables(document, "datasets"):
            yield unknown(document, (*path, "behaviour"), behaviour, "datasets")
        elif set(formats.values()) != {"event"}:
            hint = "name a dataset of events"
            yield document.problem((*path, "behaviour"), behaviour, "not of events alone", hint)
    yield from size_problems(document, path, entry)


def size_problems(document: Document, path: tuple[str, ...], entry: Entry) -> Iterator[Problem]:
    size = entry.get("codebook_size", 256)
    if entry.get("quantizer") == "residual-lfq" and type(size) is int and size & (size - 1):
        hint = f"set {2 ** (size.bit_length() - 1)} or {2 ** size.bit_length()}"
        yield document.problem((*path, "codebook_size"), size, "residual-lfq needs a power of two", hint)
