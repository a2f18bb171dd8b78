"""Is the whole of workspace.toml right? First what the schema says, then what no schema can say."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ptw.workspace import places, rooms
from ptw.workspace.document import FILE, Document, read_document
from ptw.workspace.entries import Entry, parts_of, tables, text_of, unknown
from ptw.workspace.problem import Problem, hint_of
from ptw.workspace.recipe_check import recipe_problems
from ptw.workspace.schema import violations
from ptw.workspace.tokens_check import semantic_problems, tokenizer_problems

SECTIONS = ("models", "tokenizers", "datasets", "clusters", "recipes")
OPTIONAL = ("semantic_ids",)  # told of where there are any
PROMPTS = ("query_prompt", "document_prompt")  # of a dataset of pairs
ROWS_KEYS = ("source", "format", "leave_out", "too_long", *PROMPTS)  # of a dataset that has rows of its own


@dataclass(frozen=True)
class Checked:
    problems: tuple[Problem, ...]
    summary: str

    def as_json(self) -> dict[str, object]:
        return {"passed": not self.problems, "problems": [asdict(problem) for problem in self.problems]}


def checked(root: Path) -> Checked:
    """The problems, and in a line what was looked at."""
    document = read_document(root)
    told = [*SECTIONS, *(section for section in OPTIONAL if tables(document, section))]
    counts = [f"{section} {len(tables(document, section))}" for section in told]
    found = document_problems(document)
    coming = [
        f"\n{place}: `ptw train {recipe}` makes it" for place, recipe in places.to_come(document).items()
    ]
    return Checked(tuple(found), f"{FILE}: nothing is wrong with it ({', '.join(counts)}){''.join(coming)}")


def problems(root: Path) -> list[Problem]:
    """All that is wrong, in the order of the file; PtwError when the file can't be read as TOML at all."""
    return document_problems(read_document(root))


def document_problems(document: Document) -> list[Problem]:
    found = violations(document)
    checks: dict[str, Callable[[Document, str, Entry], Iterator[Problem]]] = {
        "models": model_problems,
        "tokenizers": tokenizer_problems,
        "semantic_ids": semantic_problems,
        "datasets": dataset_problems,
        "clusters": cluster_problems,
        "recipes": recipe_problems,
    }
    for section, check in checks.items():
        for name, entry in tables(document, section).items():
            found += check(document, name, entry)
    return sorted(dict.fromkeys(found), key=lambda problem: (problem.line, problem.key))


def model_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    path = ("models", name)
    yield from places.checkpoint_problems(document, path, entry, places.model_folder_fault)
    port = text_of(entry, "port")
    ports = list(rooms.files(document.root, "models"))
    if port is not None and port not in (*ports, rooms.WITHOUT_PORT):
        hint = hint_of(port, [*ports, rooms.WITHOUT_PORT], "ports")
        yield document.problem((*path, "port"), port, "there is no such file in models/", hint)
    yield from endpoint_problems(document, path, entry)
    config = entry.get("config")
    if isinstance(config, dict):
        model_type = text_of(config, "model_type")
        if port is not None and port != model_type:
            hint = "remove the line: a model from scratch has the port of its model_type"
            yield document.problem((*path, "port"), port, "only a checkpoint may name another port", hint)
        if model_type is not None and model_type not in ports:
            hint = hint_of(model_type, ports, "ports")
            message = "there is no such port, and a model from scratch needs one"
            yield document.problem((*path, "config", "model_type"), model_type, message, hint)
        yield from plain_problems(document, (*path, "config"), config)
        if "vocab_size" in config:
            where, value = (*path, "config", "vocab_size"), config["vocab_size"]
            yield document.problem(where, value, "the recipe's tokenizer gives it", "remove the line")


def endpoint_problems(document: Document, path: tuple[str, ...], entry: Entry) -> Iterator[Problem]:
    endpoint = text_of(entry, "endpoint")
    if endpoint is None:
        return
    if not endpoint.startswith(("http://", "https://")):
        hint = "write it with its scheme and path: http://127.0.0.1:8000/v1"
        yield document.problem((*path, "endpoint"), endpoint, "not the address of an endpoint", hint)
    elif "@" in endpoint.partition("://")[2].partition("/")[0]:
        hint = "name the variable that holds the key: api_key_env"
        yield document.problem(
            (*path, "endpoint"), "...", "it holds a password, which would be written down", hint
        )
    if "port" in entry:
        hint = "remove the line: others serve it"
        yield document.problem((*path, "port"), entry["port"], "a model of an endpoint has no port", hint)


def plain_problems(document: Document, path: tuple[str | int, ...], value: object) -> Iterator[Problem]:
    """Values that config.json has no form for: dates, nan, inf."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from plain_problems(document, (*path, key), part)
    elif isinstance(value, float) and not math.isfinite(value):
        yield document.problem(path, value, "not a finite number", "config.json has no form for it")
    elif not isinstance(value, str | int | float):
        yield document.problem(path, value, "a date or time", "config.json has no form for it; quote it")


def dataset_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    path = ("datasets", name)
    yield from mix_problems(document, name, entry)
    source = entry.get("source")
    if isinstance(source, str) and source:
        yield from places.source_problems(document, (*path, "source"), source)
    for number, part in enumerate(source if isinstance(source, list) else []):
        if isinstance(part, str) and part:
            yield from places.source_problems(document, (*path, "source", number), part)
    form = entry["format"] if isinstance(entry.get("format"), str) else None
    if form not in ("event", None) and entry.get("leave_out"):
        where = (*path, "leave_out")
        hint = "remove it, and declare the held-out rows as a dataset of their own"
        yield document.problem(where, entry["leave_out"], f"only events can be left out, not {form}", hint)
    for key in PROMPTS if form not in ("pair", None) else ():
        if key in entry:
            hint = 'remove it, or give the dataset format = "pair"'
            message = f"only pairs have prompts, not {form}"
            yield document.problem((*path, key), entry[key], message, hint)
    whole = {
        "chat": "a chat",
        "preference": "a pair of answers",
        "rated": "a rated chat",
        "labelled": "what has a label",
        "pair": "a query with its documents",
    }
    if form in whole and entry.get("too_long") == "split":
        hint, what = "choose error, truncate or drop", whole[form]
        yield document.problem((*path, "too_long"), "split", f"{what} cannot be split", hint)
    if form == "prompt" and entry.get("too_long") in ("truncate", "split"):
        where, value = (*path, "too_long"), entry["too_long"]
        yield document.problem(where, value, "a prompt cannot be cut", "choose error or drop")


def mix_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    """A mix has parts, which have rows of their own, and nothing beside them."""
    path, datasets = ("datasets", name), tables(document, "datasets")
    for key in (key for key in entry if "mix" in entry and key in ROWS_KEYS):
        hint = "remove it: each part of the mix has its own"
        yield document.problem((*path, key), entry[key], "stands beside mix", hint)
    for part, weight in parts_of(entry).items():
        where = (*path, "mix", part)
        if part == name:
            hint = "name datasets that have rows of their own"
            yield document.problem(where, weight, "a mix can't be a part of itself", hint)
        elif part not in datasets:
            yield unknown(document, where, part, "datasets")
        elif "mix" in datasets[part]:
            inner = ", ".join(list(parts_of(datasets[part]))[:8]) or "datasets with rows of their own"
            yield document.problem(where, weight, f"{part} is a mix itself", f"name its parts: {inner}")


def dealing_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    """Workers are dealt to copies of the model, and in a copy to groups that compute a batch together."""
    counts = [entry.get(key, 1) for key in ("workers", "replicas", "tensor", "experts")]
    if not all(type(count) is int and count > 0 for count in counts):
        return  # the schema has told of it
    workers, replicas, tensor, experts = counts
    if tensor > 1 and experts > 1:
        message = f"beside tensor = {tensor}: experts are dealt to workers with a batch of their own"
        yield document.problem(("clusters", name, "experts"), experts, message, "set one of the two to 1")
        return
    key, neighbours = ("experts", experts) if experts > 1 else ("tensor", tensor)
    together = replicas * neighbours
    if workers % together:
        message = f"no multiple of {key} = {neighbours} times replicas = {replicas}"
        hint = f"set workers to {together * -(-workers // together)}, or lower {key} or replicas"
        yield document.problem(("clusters", name, "workers"), workers, message, hint)


def jobs_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    """`storage` and `folder` are of clusters that take jobs."""
    address, storage = text_of(entry, "address"), text_of(entry, "storage")
    if address is not None and address.startswith(("http://", "https://")):
        if "storage" not in entry:
            hint = "add storage: a folder that this machine and the cluster's see, or a URL (s3://bucket/ptw)"
            message = "runs are handed to it as jobs, and nothing says where they are fetched from"
            yield document.problem(("clusters", name, "storage"), None, message, hint)
        elif storage is not None and "://" not in storage and not storage.startswith("/"):
            hint = "write the whole path, or a URL"
            yield document.problem(
                ("clusters", name, "storage"), storage, "not the same on all machines", hint
            )
        return
    for key in ("storage", "folder"):
        if key in entry:
            hint = "give the address of the Jobs API, http://head:8265, or remove the line"
            yield document.problem(("clusters", name, key), entry[key], "only a cluster of jobs has it", hint)


def cluster_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    yield from dealing_problems(document, name, entry)
    yield from jobs_problems(document, name, entry)
