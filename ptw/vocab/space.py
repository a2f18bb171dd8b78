"""In which space do items lie, and where does a new one lie in it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ptw.errors import PtwError
from ptw.vocab.behaviour import of_behaviour
from ptw.vocab.catalogue import Catalogue
from ptw.vocab.encode import encoded
from ptw.vocab.text import Lsa, learn_lsa
from ptw.vocab.words import NOW, SPACED, words_of
from ptw.workspace.manifest import SemanticIdsEntry, Workspace

FILE = "space.safetensors"
READING = "reading"  # the tensor that says how texts were read
LSA, NONE = "lsa", "none"
RIDGE = 1.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Space:
    """What new items need to lie where they belong: tensors of how texts were read and behaviour foretold."""

    tensors: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, folder / FILE)


def read_space(folder: Path) -> Space:
    try:
        return Space(load_file(folder / FILE))
    except (OSError, SafetensorError) as error:
        raise PtwError(f"{folder / FILE}: can't be read ({error!r}); build the vocabulary again") from error


def learn_space(
    workspace: Workspace, entry: SemanticIdsEntry, catalogue: Catalogue, say: Say
) -> tuple[Tensor, Space]:
    """(N, D) of the items, all parts of length 1 side by side: given or of the text, and of behaviour.

    Items that stand in no sequence get the behaviour that their other part foretells, by ridge regression.
    """
    tensors: dict[str, Tensor] = {}
    if _reads_text(entry):
        lsa = learn_lsa(_with_words(catalogue, entry), entry.seed)
        tensors = {"rarity": lsa.rarity_B, "directions": lsa.directions_BD, READING: torch.tensor(NOW)}
    own_ND = _own(workspace, entry, catalogue, Space(tensors), say)
    if entry.behaviour is None:
        assert own_ND is not None, "the workspace was checked"
        return own_ND, Space(tensors)
    row_of = {name: row for row, name in enumerate(catalogue.ids)}
    acted_ND = of_behaviour(workspace.root, workspace.datasets[entry.behaviour], row_of, entry.seed)
    seen_N = acted_ND.norm(dim=-1) > 0
    say(f"behaviour: {int(seen_N.sum()):,} of {len(seen_N):,} items stand in a sequence")
    if own_ND is None:
        _demand_all_seen(catalogue, seen_N, entry)
        return acted_ND, Space(tensors)
    tensors["foretells"] = _ridge(own_ND[seen_N], acted_ND[seen_N])
    acted_ND = torch.where(seen_N[:, None], acted_ND, _foretold(own_ND, tensors["foretells"]))
    return torch.cat([own_ND, acted_ND], -1), Space(tensors)


def in_space(
    workspace: Workspace, entry: SemanticIdsEntry, catalogue: Catalogue, space: Space, say: Say
) -> Tensor:
    """(N, D) of items that came later. Their behaviour is foretold: the space does not move for them."""
    own_ND = _own(workspace, entry, catalogue, space, say)
    if own_ND is None:
        raise PtwError(
            f"semantic_ids.{entry.name}: its vectors are of behaviour alone, and new items have none: build "
            "it with their text too (encoder), then extend it"
        )
    if "foretells" not in space.tensors:
        return own_ND
    return torch.cat([own_ND, _foretold(own_ND, space.tensors["foretells"])], -1)


def _own(
    workspace: Workspace, entry: SemanticIdsEntry, catalogue: Catalogue, space: Space, say: Say
) -> Tensor | None:
    if entry.embeddings is not None:
        return _given(workspace.root, entry.embeddings, catalogue)
    if entry.encoder == NONE:
        return None
    if _reads_text(entry):
        return _of_words(entry, catalogue, space, say)
    texts = catalogue.texts(entry.text)
    without = [name for name, text in zip(catalogue.ids, texts, strict=True) if not text.strip()]
    if without:
        say(f"{len(without):,} items have no {entry.text}, {without[0]!r} among them")
    return encoded(workspace, entry.encoder, texts, say)


def _of_words(entry: SemanticIdsEntry, catalogue: Catalogue, space: Space, say: Say) -> Tensor:
    """(N, D) of texts read as when the vocabulary was built; 0 where one has no word that it knows."""
    if "rarity" not in space.tensors:
        raise PtwError(f"semantic_ids.{entry.name}: it was built otherwise than it is declared now")
    reading = int(space.tensors.get(READING, torch.tensor(SPACED)))
    if reading > NOW:
        raise PtwError(
            f"semantic_ids.{entry.name}: a newer ptw built it, and reads texts otherwise; update ptw"
        )
    texts = catalogue.texts(entry.text)
    if reading < NOW and any(words_of(text) != words_of(text, reading) for text in texts):
        say(
            "texts are read as an earlier ptw read them for this vocabulary: words between spaces only, each "
            f"form of a letter apart; `ptw vocab build {entry.name}` reads Chinese, Thai and others anew"
        )
    own_ND = Lsa(space.tensors["rarity"], space.tensors["directions"], reading)(texts)
    silent = (own_ND.norm(dim=-1) == 0).nonzero()[:, 0].tolist()
    if silent:
        say(
            f"{len(silent):,} items have no word in `{entry.text}` that the vocabulary knows, "
            f"{catalogue.ids[silent[0]]!r} among them"
        )
    return own_ND


def _with_words(catalogue: Catalogue, entry: SemanticIdsEntry) -> list[str]:
    texts = catalogue.texts(entry.text)
    if not any(map(words_of, texts)):
        raise PtwError(
            f"{catalogue.file}: no item has a word in `{entry.text}`, only signs; name another key with "
            '`text`, or set encoder = "none"'
        )
    return texts


def _reads_text(entry: SemanticIdsEntry) -> bool:
    return entry.embeddings is None and entry.encoder == LSA


def _given(root: Path, file: str, catalogue: Catalogue) -> Tensor:
    """Rows {id, embedding} of a .parquet or .jsonl; PtwError for an item that has none."""
    import pyarrow
    import pyarrow.compute
    from pyarrow import json as pyarrow_json
    from pyarrow import parquet

    try:
        table: Any = (
            parquet.read_table(root / file)
            if file.endswith(".parquet")
            else pyarrow_json.read_json(root / file)
        )
        names = [str(name) for name in table["id"].to_pylist()]
        column = table["embedding"].combine_chunks()
        lists = pyarrow.compute.list_value_length(column)
        widths = set(pyarrow.compute.unique(lists).to_pylist())
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    except (OSError, KeyError, ValueError, AttributeError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise PtwError(
            f"{file}: no embeddings ({reason}); every row needs `id`, and `embedding`, a list of numbers"
        ) from error
    if len(widths) != 1:
        raise PtwError(f"{file}: its embeddings are not all of one width: {sorted(map(str, widths))[:4]}")
    vectors = flat.reshape(len(names), -1)
    row_of = {name: row for row, name in enumerate(names)}
    missing = [name for name in catalogue.ids if name not in row_of]
    if missing:
        raise PtwError(
            f"{file}: {len(missing):,} items of {catalogue.file} have no embedding, {missing[0]!r} among them"
        )
    chosen = torch.from_numpy(vectors[[row_of[name] for name in catalogue.ids]])
    if not torch.isfinite(chosen).all():
        at = int((~torch.isfinite(chosen).all(-1)).nonzero()[0])
        raise PtwError(f"{file}: the embedding of item {catalogue.ids[at]!r} is not finite")
    return torch.nn.functional.normalize(chosen)


def _ridge(own_ND: Tensor, acted_ND: Tensor) -> Tensor:
    """(D, E) the map from one to the other with the least squares."""
    squares_DD = own_ND.double().T @ own_ND.double()
    return torch.linalg.solve(
        squares_DD + RIDGE * torch.eye(len(squares_DD), dtype=torch.float64),
        own_ND.double().T @ acted_ND.double(),
    ).float()


def _foretold(own_ND: Tensor, map_DE: Tensor) -> Tensor:
    return torch.nn.functional.normalize(own_ND @ map_DE)


def _demand_all_seen(catalogue: Catalogue, seen_N: Tensor, entry: SemanticIdsEntry) -> None:
    if not seen_N.all():
        name = catalogue.ids[int((~seen_N).nonzero()[0])]
        raise PtwError(
            f"semantic_ids.{entry.name}: {int((~seen_N).sum()):,} items stand in no sequence of dataset "
            f'{entry.behaviour}, {name!r} among them, and encoder = "none": name an encoder for their text'
        )
