"""Which packed rows does a dataset give, each sample once an epoch, also after a stop?"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ptw.data.ahead import Ahead
from ptw.data.pack import PackedRow
from ptw.data.produce import produce
from ptw.data.reader import Source
from ptw.data.state import PartState, State, sealed, unsealed
from ptw.errors import PtwError
from ptw.files.find import size_bytes
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry, Share

_ROWS_AHEAD = 16


class Stream:
    """Iterates over packed rows of `window` ids. Rows are tokenised and packed in the background.

    Every sample comes once in each of `epochs` epochs (None: for ever). An epoch of a mix ends with that of
    its slowest part; the others begin again meanwhile, each with epochs of its own. After `load_state_dict`
    the rows that follow are those that followed `state_dict`, byte for byte. Workers all read the same.
    With `renderers` so many processes tokenise, and a thread packs.
    """

    def __init__(
        self,
        root: Path,
        dataset: DatasetEntry,
        tokenizer: Tokenizer,
        *,
        window: int,
        seed: int,
        epochs: int | None,
        shuffle: bool = True,
        renderers: int = 0,
    ) -> None:
        self._name = dataset.name
        self._source = Source.of(
            root,
            dataset,
            tokenizer,
            window=window,
            seed=seed,
            epochs=epochs,
            shuffle=shuffle,
            renderers=renderers,
        )
        parts = self._source.parts
        self._state = State.beginning(len(parts))
        self._ahead: Ahead[tuple[PackedRow, State]] | None = None
        self._made_of = {
            "files": _digest([[file.place, size_bytes(file)] for part in parts for file in part.files]),
            "dataset": _digest([_shape(share) for share in dataset.parts]),
            "tokenizer": tokenizer.fingerprint,
            "window": window,
            "seed": seed,
            "shuffle": shuffle,
        }

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> PackedRow:
        if self._ahead is None:
            self._ahead = Ahead(produce(self._source, self._state), _ROWS_AHEAD)
        row, self._state = next(self._ahead)
        return row

    @property
    def epoch(self) -> int:
        """The epoch, from 0, of the row handed out last."""
        return self._state.epoch

    @property
    def parts(self) -> dict[str, PartState]:
        """What was read, handed out and refused, by dataset: of a mix each part, else the dataset itself."""
        names = (part.dataset.name for part in self._source.parts)
        return dict(zip(names, self._state.parts, strict=True))

    @property
    def efficiency(self) -> float:
        """Which part of the ids handed out is no padding."""
        return self._state.tokens_out / max(self._state.rows_out * self._source.window, 1)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: plain lists, numbers and strings, some 20 kB."""
        return sealed({"made_of": dict(self._made_of), **self._state.to_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """PtwError: a damaged state, or that of other data, of another tokenizer or of another shape."""
        values = unsealed(state)
        made_of = values.pop("made_of")
        changed = [key for key, value in self._made_of.items() if made_of.get(key) != value]
        if changed:
            raise PtwError(
                f"dataset {self._name}: {', '.join(changed)} changed since the checkpoint was "
                "saved, so that its stream can't go on exactly; restore what it was, or start a new run"
            )
        self.close()
        self._state = State.from_dict(values)

    def close(self) -> None:
        """End the background work; iterating goes on where it stood."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        self._source.renderers.close()


def _shape(share: Share) -> dict[str, Any]:
    """What changes the rows; names don't."""
    return {**asdict(share.dataset), "name": "", "weight": share.weight}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
