"""Are the files and checkpoints that workspace.toml names there?"""

import glob
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.workspace import rooms
from ptw.workspace.document import Document
from ptw.workspace.entries import tables, text_of
from ptw.workspace.problem import Problem, nearest

Key = tuple[str | int, ...]

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
OF_A_RUN = re.compile(r"runs/(?P<recipe>.+)-\d{3,}/(?P<made>[^/]+)")
MODELS, LABELS = ("model", "adapter"), ("labels.jsonl", "refused.jsonl")
OF_LABELS = "budget_usd"  # a setting that every recipe that labels has, and no other
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def checkpoint_problems(
    document: Document, path: Key, entry: dict[str, Any], folder_fault: Callable[[Path], str | None]
) -> Iterator[Problem]:
    """`hf` is a folder that holds what it should, or a Hub id with a revision."""
    hf, revision = entry.get("hf"), entry.get("revision")
    if not isinstance(hf, str) or not hf:
        return
    where = (*path, "hf")
    folder, is_to_come = document.root / hf, recipe_of(document, hf) is not None
    if is_to_come or os.path.isdir(folder):
        fault = None if is_to_come else folder_fault(folder)
        if fault is not None:
            yield document.problem(where, hf, "the folder holds no such checkpoint", fault)
        if revision is not None:
            message = "a local folder has no revision"
            yield document.problem((*path, "revision"), revision, message, "remove it")
    elif os.path.exists(folder):
        yield document.problem(where, hf, "this is a file", "name the folder that it is in")
    elif not HUB_ID.fullmatch(hf):
        hint = near_file(document.root, hf) or "name a folder, or a Hub id (owner/name) with its revision"
        yield document.problem(where, hf, "there is no such folder", hint)
    elif revision is None:
        hint = near_file(document.root, hf) or "for a Hub id, add revision = its full commit (40 hex digits)"
        yield document.problem(where, hf, "no such folder, and a Hub id needs a revision", hint)


def recipe_of(document: Document, place: str) -> str | None:
    """The recipe of this file that will make it, where it is what a run leaves and not there yet."""
    named = OF_A_RUN.fullmatch(place)
    recipe = tables(document, "recipes").get(named["recipe"]) if named else None
    if named is None or recipe is None or (document.root / place).exists():
        return None
    return named["recipe"] if named["made"] in _made_by(document.root, text_of(recipe, "recipe")) else None


def _made_by(root: Path, method: str | None) -> tuple[str, ...]:
    """What runs of this file of recipes/ leave for others; nothing where it can't be read, which is told."""
    try:
        fields = rooms.settings_fields(rooms.files(root, "recipes")[str(method)])
    except (KeyError, PtwError):
        return ()
    return LABELS if OF_LABELS in fields else MODELS


def to_come(document: Document) -> dict[str, str]:
    """What the file names that runs of its own recipes have yet to make, and by which recipe."""
    entries = [entry for section in ("models", "tokenizers") for entry in tables(document, section).values()]
    named = [entry.get("hf") for entry in entries]
    for entry in tables(document, "datasets").values():
        source = entry.get("source")
        named += source if isinstance(source, list) else [source]
    recipes = {place: recipe_of(document, place) for place in named if isinstance(place, str)}
    return {place: recipe for place, recipe in recipes.items() if recipe is not None}


def model_folder_fault(folder: Path) -> str | None:
    """What keeps the folder from being a checkpoint, by its config alone."""
    file = folder / "config.json"
    if not file.is_file():
        return "config.json is missing: export the model again, or name another folder"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"config.json cannot be read: {error}"
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        return "config.json has no model_type, which says the model's architecture"
    return None


def tokenizer_folder_fault(folder: Path) -> str | None:
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    return f"it has none of {', '.join(TOKENIZER_FILES)}"


def file_problems(document: Document, path: Key, file: str) -> Iterator[Problem]:
    """One file of the workspace, by its path."""
    place = document.root / file
    if os.path.isdir(place):
        yield document.problem(path, file, "this is a folder", "name a file in it")
    elif not os.path.isfile(place):
        yield document.problem(path, file, "there is no such file", near_file(document.root, file) or "")


def source_problems(document: Document, path: Key, source: str) -> Iterator[Problem]:
    """One source of a dataset. What a URL names is looked up only when it is read."""
    endings = "the known endings are " + ", ".join(SUFFIXES)
    if "://" in source:
        if not source.endswith((*SUFFIXES, "*")):
            yield document.problem(path, source, "not a file that ptw reads", endings)
        return
    if recipe_of(document, source) is not None:
        return
    found = matches(document.root, source)
    wrong = [file for file in found if not file.endswith(SUFFIXES)]
    if not found and os.path.isdir(document.root / source):
        hint = f'say which files: "{source.rstrip("/")}/*.jsonl"'
        yield document.problem(path, source, "this is a folder", hint)
    elif not found:
        hint = near_file(document.root, source) or "the path is relative to the workspace's folder"
        yield document.problem(path, source, "no file matches", hint)
    elif wrong:
        message = f"{os.path.basename(wrong[0])!r} is not a file that ptw reads"
        yield document.problem(path, source, message, endings)


def matches(root: Path, pattern: str) -> list[str]:
    """The files that a local source means; a path that has glob characters and exists means itself."""
    if "\0" in pattern:
        return []
    place = os.path.join(root, pattern)
    if os.path.isfile(place):
        return [place]
    try:
        found = glob.glob(pattern, root_dir=root, recursive=True)
    except (OSError, ValueError, re.error):
        return []
    return sorted(file for file in (os.path.join(root, name) for name in found) if os.path.isfile(file))


def near_file(root: Path, file: str) -> str | None:
    """`did you mean data/items.jsonl?`, from the names in the folder that the path points into."""
    folder, name = os.path.split(file)
    try:
        names = [entry.name for entry in os.scandir(root / folder)]
    except (OSError, ValueError):
        return None
    close = nearest(name, names)
    return None if close is None else f"did you mean {os.path.join(folder, close)!r}?"
