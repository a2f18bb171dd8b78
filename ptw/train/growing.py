"""Which tokens does a run's tokenizer have that its model has not, and how do their rows begin?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from ptw.errors import PtwError
from ptw.ports.checkpoint import read_config
from ptw.ports.grow import Growth, Init
from ptw.tokens.semantic import SemanticIds
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.train.plan import Plan
from ptw.train.settings import TrainingSettings
from ptw.vocab.catalogue import read_catalogue
from ptw.workspace.places import tokenizer_folder_fault

EACH = 64  # texts of a code that are looked at


class Grown(Protocol):
    plan: Plan
    settings: TrainingSettings
    tokenizer: Tokenizer


def growth_of(run: Grown, folder: Path) -> Growth | None:
    """None where the model of this folder has a row for every token of the tokenizer.

    PtwError where it lacks rows for tokens that the workspace does not declare as new ones.
    """
    entry, tokenizer = run.plan.tokenizer, run.tokenizer
    rows = int(read_config(folder).get("vocab_size", tokenizer.size))
    new = declared_ids(run)
    if not new:
        if tokenizer.size > rows:
            raise _refused(run, rows)
        return None
    known = rows
    if tokenizer_folder_fault(folder) is None:
        own = load_tokenizer(folder)
        new = [
            id_ for id_ in new if own.hf.convert_ids_to_tokens(id_) != tokenizer.hf.convert_ids_to_tokens(id_)
        ]
        known = own.size
    if not new:
        return None
    if new != list(range(min(new), tokenizer.size)) or min(new) > rows:
        raise _refused(run, rows)
    _demand_whole_model(run)
    init = cast(Init, entry.init)
    texts = dict(_texts(run.plan, tokenizer, known)) if init == "grounded" else {}
    return Growth(min(new), tokenizer.size, init, texts, run.settings.seed)


def declared_ids(run: Grown) -> list[int]:
    """The ids, in order, of the tokens that the workspace adds to the tokenizer."""
    codes = [
        id_ for name in run.tokenizer.vocabularies for level in run.tokenizer.code_ids(name) for id_ in level
    ]
    special = [run.tokenizer.hf.convert_tokens_to_ids(token) for token in run.plan.tokenizer.special_tokens]
    return sorted([*codes, *special, *run.tokenizer.field_ids])


def _texts(plan: Plan, tokenizer: Tokenizer, known: int) -> Iterator[tuple[int, list[list[int]]]]:
    """For each code that items have, the texts of some of them, in tokens that the model has."""
    for name, ids in tokenizer.vocabularies.items():
        entry = plan.semantic_ids.get(name)
        if entry is None:
            continue
        written = _written(plan.root, ids, entry.text)
        encoded: dict[int, list[int]] = {}
        for level, tokens in enumerate(tokenizer.code_ids(name)):
            for code, rows in enumerate(_rows_of(ids.codes_NL[:, level], ids.codebook_size)):
                for row in rows:
                    if row not in encoded:
                        encoded[row] = [id_ for id_ in tokenizer.encode(written[row]) if id_ < known]
                found = [encoded[row] for row in rows if encoded[row]]
                if found:
                    yield tokens[code], found


def _written(root: Path, ids: SemanticIds, key: str) -> list[str]:
    """The text of each item; empty where it has none."""
    texts: dict[str, str] = {}
    for file in ids.facts["files"]:
        catalogue = read_catalogue(root, file)
        texts |= dict(zip(catalogue.ids, (str(row.get(key, "")) for row in catalogue.rows), strict=True))
    return [texts.get(item, "") for item in ids.items]


def _rows_of(codes_N: np.ndarray, size: int) -> list[list[int]]:
    """Of each code some of the items that have it, evenly over all of them."""
    order = np.argsort(codes_N, kind="stable")
    starts = np.searchsorted(codes_N[order], np.arange(size + 1))
    found = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        step = max(1, -(-(end - begin) // EACH))
        found.append(order[begin:end:step].tolist())
    return found


def _demand_whole_model(run: Grown) -> None:
    if run.settings.adapter != "none":
        raise PtwError(
            f"settings: adapter = {run.settings.adapter!r}: tokenizer {run.tokenizer.name} has tokens that "
            f"model {run.plan.model.name} has no rows for, and an adapter's base never learns them: train "
            'with stage = "new-rows" first, then put the adapter on its model'
        )


def _refused(run: Grown, rows: int) -> PtwError:
    return PtwError(
        f"tokenizer {run.tokenizer.name} has ids up to {run.tokenizer.size - 1}, but model "
        f"{run.plan.model.name} has only {rows} rows in its table: name the tokenizer that belongs to it"
    )
