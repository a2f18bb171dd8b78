"""How does a version of a vocabulary of semantic IDs come to be: built, extended, or refitted?"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ptw.errors import PtwError
from ptw.files.find import content_digest, find
from ptw.runs.open import run_named
from ptw.runs.record import MODEL, RUNS
from ptw.tokens import semantic
from ptw.tokens.semantic import SemanticIds
from ptw.vocab.catalogue import Catalogue, read_catalogue
from ptw.vocab.codec import Codec, read_codec
from ptw.vocab.figures import churn, figures
from ptw.vocab.quantizers import QUANTIZERS, Shape, warm
from ptw.vocab.space import LSA, NONE, Space, in_space, learn_space, read_space
from ptw.vocab.unique import Placed, demand_room, placed
from ptw.workspace.manifest import SemanticIdsEntry, Workspace
from ptw.workspace.problem import hint_of

LEARNT = ("learnt_from", "encoder_model")  # facts of a version: what it knows of users
VECTORS = "vectors.safetensors"  # in half precision: what a refit starts from
NAMED = 8  # items of which nothing is known
Say = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A version before it is written, and what is known of its items."""

    codec: Codec
    space: Space
    vectors_ND: Tensor
    placed: Placed
    catalogue: Catalogue


def build(workspace: Workspace, name: str, say: Say) -> Path:
    """The folder of a new first version, or of the newest one if that has the same codes."""
    entry = entry_of(workspace, name)
    catalogue = read_catalogue(workspace.root, entry.items)
    say(f"{len(catalogue.ids):,} items of {entry.items}")
    demand_room(len(catalogue.ids), entry.levels, entry.codebook_size)
    vectors_ND, space = learn_space(workspace, entry, catalogue, say)
    say(
        f"vectors of {vectors_ND.shape[1]} numbers; {entry.quantizer}, {entry.levels} x {entry.codebook_size}"
    )
    shape = Shape(entry.levels, entry.codebook_size, entry.seed)
    codec = QUANTIZERS[entry.quantizer](vectors_ND, shape, say)
    made = Made(codec, space, vectors_ND, placed(codec, codec.encoded(vectors_ND)), catalogue)
    facts = {"made_by": "build", "files": [entry.items], "ancestors": [], **_learnt(workspace, entry)}
    return _published(workspace, entry, made, facts, say)


def extend(workspace: Workspace, name: str, file: str, refit: int, say: Say) -> Path:
    """The folder of a version that has the file's new items, too, and every old item with its old codes.

    With `refit` so many steps of k-means more, on all items: codes change, and the version says how many.
    """
    entry = entry_of(workspace, name)
    old = semantic.open_semantic_ids(workspace.root, entry)
    folder = semantic.version_folder(workspace.root, name, old.version)
    semantic.demand_as_declared(entry, old.facts)
    codec, space = read_codec(folder), read_space(folder)
    fresh = _new_of(read_catalogue(workspace.root, file), old, say)
    if not fresh.ids and not refit:
        return folder
    files = [*old.facts["files"], *([file] if fresh.ids else [])]
    whole = _whole(workspace.root, files, old, fresh)
    new_ND = in_space(workspace, entry, fresh, space, say) if fresh.ids else None
    old_ND = _read_vectors(folder)
    vectors_ND = old_ND if new_ND is None else torch.cat([old_ND, new_ND])
    facts: dict[str, Any] = {"files": files, "parent": old.version}
    facts |= {key: old.facts[key] for key in LEARNT if key in old.facts}
    if refit:
        codec = warm(codec, vectors_ND, refit)
        found = placed(codec, codec.encoded(vectors_ND))
        before = torch.from_numpy(old.codes_NL).long()
        facts |= {"made_by": f"refit {refit}", "churn": churn(before, found.codes_NL[: len(before)])}
    else:
        found = _extended(codec, old, vectors_ND)
        facts["made_by"] = "extend"
    facts["ancestors"] = [*old.facts["ancestors"], old.digest]
    return _published(workspace, entry, Made(codec, space, vectors_ND, found, whole), facts, say)


def _learnt(workspace: Workspace, entry: SemanticIdsEntry) -> dict[str, Any]:
    """What a version knows of users beside its items: `ptw eval` refuses a test that is part of it."""
    behaviour = workspace.datasets[entry.behaviour].parts if entry.behaviour else ()
    keys = ("name", "source", "format", "leave_out")
    parts = [{key: getattr(share.dataset, key) for key in keys} for share in behaviour]
    return {
        "learnt_from": [{**part, "source": list(part["source"])} for part in parts],
        "encoder_model": _encoder_model(workspace, entry),
    }


def _encoder_model(workspace: Workspace, entry: SemanticIdsEntry) -> dict[str, Any] | None:
    """The model that read the items' texts, by its folder or its name on the Hub."""
    if entry.embeddings is not None or entry.encoder in (LSA, NONE):
        return None
    run = run_named(workspace, entry.encoder)
    if run is not None:
        return {"hf": f"{RUNS}/{run.name}/{MODEL}", "revision": None}
    model = workspace.models[entry.encoder]
    return {"hf": model.hf, "revision": model.revision}


def entry_of(workspace: Workspace, name: str) -> SemanticIdsEntry:
    entry = workspace.semantic_ids.get(name)
    if entry is None:
        hint = hint_of(name, list(workspace.semantic_ids), "semantic_ids")
        raise PtwError(f"workspace.toml: there is no [semantic_ids.{name}]; {hint}")
    return entry


def _extended(codec: Codec, old: SemanticIds, vectors_ND: Tensor) -> Placed:
    """Old codes as they are, and the new items' among those that are free."""
    taken_ML = torch.from_numpy(old.codes_NL).long()
    encoded_ND = codec.encoded(vectors_ND)
    new = placed(codec, encoded_ND[len(taken_ML) :], taken_ML)
    codes_NL = torch.cat([taken_ML, new.codes_NL])
    moved_N = torch.cat([torch.zeros(len(taken_ML), dtype=torch.bool), new.moved_N])
    whole = float(encoded_ND.square().sum().clamp(min=1e-12))
    nearest_NL, left_ND = codec.codes(encoded_ND)
    return Placed(
        codes_NL,
        moved_N,
        largest=int(torch.unique(nearest_NL, dim=0, return_counts=True)[1].max()),
        before=float(left_ND.square().sum()) / whole,
        after=float(codec.left_over(encoded_ND, codes_NL).square().sum()) / whole,
    )


def _published(
    workspace: Workspace, entry: SemanticIdsEntry, made: Made, facts: Mapping[str, Any], say: Say
) -> Path:
    """Written whole beside the versions that are there; the newest one, where it has the same codes."""
    known = semantic.versions(workspace.root, entry.name)
    told = {
        "version": known[-1] + 1 if known else 1,
        **facts,
        "declared": semantic.declared(entry),
        "content": content_digest(find(workspace.root, tuple(facts["files"]))),
        "nothing_known": _nothing_known(made),
        "figures": figures(made.placed, entry.codebook_size, made.catalogue.attributes()),
    }
    codes = made.placed.codes_NL.numpy().astype(np.int32)
    found = SemanticIds(entry.name, entry.codebook_size, made.catalogue.ids, codes, told)
    for version in known[-1:]:
        newest = semantic.version_folder(workspace.root, entry.name, version)
        same = semantic.read_version(newest)
        if same.digest == found.digest and all(same.facts.get(key) == found.facts.get(key) for key in LEARNT):
            say(f"version {version} has the same codes: it stays the newest")
            return newest
    target = semantic.version_folder(workspace.root, entry.name, told["version"])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
        try:
            made.codec.save(aside)
            made.space.save(aside)
            save_file({"vectors": made.vectors_ND.half().contiguous()}, aside / VECTORS)
            semantic.write_version(aside, found)
            aside.chmod(0o755)
            os.rename(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise PtwError(f"{target}: can't be written ({error}); nothing was left behind") from error
    return target


def _nothing_known(made: Made) -> dict[str, Any]:
    """How many items neither a text nor behaviour gives a place, and the first few of them."""
    rows = (made.vectors_ND.norm(dim=-1) == 0).nonzero()[:, 0].tolist()
    return {"items": len(rows), "first": [made.catalogue.ids[row] for row in rows[:NAMED]]}


def _new_of(catalogue: Catalogue, old: SemanticIds, say: Say) -> Catalogue:
    fresh = [row for row, name in enumerate(catalogue.ids) if name not in old.row_of]
    say(f"{len(fresh):,} items of {catalogue.file} are new, {len(catalogue.ids) - len(fresh):,} are known")
    return _chosen(catalogue, fresh)


def _whole(root: Path, files: Sequence[str], old: SemanticIds, fresh: Catalogue) -> Catalogue:
    """Old items and new ones, in the order of their codes; of an item in several files what the last says."""
    rows: dict[str, Mapping[str, Any]] = {}
    for file in dict.fromkeys(files):
        found = read_catalogue(root, file)
        rows |= dict(zip(found.ids, found.rows, strict=True))
    ids = (*old.items, *fresh.ids)
    return Catalogue(fresh.file, ids, tuple(rows.get(name, {}) for name in ids))


def _chosen(catalogue: Catalogue, rows: Sequence[int]) -> Catalogue:
    ids = tuple(catalogue.ids[row] for row in rows)
    return Catalogue(catalogue.file, ids, tuple(catalogue.rows[row] for row in rows))


def _read_vectors(folder: Path) -> Tensor:
    try:
        return load_file(folder / VECTORS)["vectors"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise PtwError(
            f"{folder / VECTORS}: can't be read ({error!r}); restore it, or build the vocabulary again"
        ) from error
