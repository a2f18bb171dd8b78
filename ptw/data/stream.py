"""Which packed rows does a dataset give, each sample once an epoch, also after a stop?"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ptw.data.ahead import Ahead
from ptw.data.pack import PackedRow
from ptw.data.produce import Source, produce
from ptw.data.state import Refused, State
from ptw.errors import PtwError
from ptw.files.find import find, size_bytes
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

_ROWS_AHEAD = 16


class Stream:
    """Iterates over packed rows of `window` ids. Rows are tokenised and packed in the background.

    Every sample comes once in each of `epochs` epochs (None: for ever). After `load_state_dict` the rows that
    follow are those that followed `state_dict`, byte for byte. Workers all read the same.
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
    ) -> None:
        if window < 2 or (epochs is not None and epochs < 1):
            raise PtwError(
                f"dataset {dataset.name}: window {window} must be 2 or more, epochs {epochs} 1 or more"
            )
        files = find(root, dataset.source)
        self._source = Source(files, dataset, tokenizer, window, seed, epochs, shuffle)
        self._state = State()
        self._ahead: Ahead[tuple[PackedRow, State]] | None = None
        self._made_of = {
            "files": _digest([[file.place, size_bytes(file)] for file in files]),
            "dataset": _digest({key: value for key, value in asdict(dataset).items() if key != "name"}),
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
    def refused(self) -> tuple[Refused, ...]:
        """The rows that are not used, of the first epoch; the first thousand, `refused_count` counts all."""
        return self._state.refused

    @property
    def refused_count(self) -> int:
        return self._state.refused_count

    @property
    def context_turns(self) -> int:
        """Assistant turns that the chat template keeps as context only, of the first epoch."""
        return self._state.context

    @property
    def efficiency(self) -> float:
        """Which part of the ids handed out is no padding."""
        return self._state.tokens_out / max(self._state.rows_out * self._source.window, 1)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: plain lists, numbers and strings, some 20 kB."""
        return {"made_of": dict(self._made_of), **self._state.to_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """PtwError: the state of a stream of other data, of another tokenizer or of another shape."""
        values = dict(state)
        made_of = values.pop("made_of", None)
        if not isinstance(made_of, dict):
            raise PtwError("not the state of a stream: it doesn't say what it was made of")
        changed = [key for key, value in self._made_of.items() if made_of.get(key) != value]
        if changed:
            raise PtwError(
                f"dataset {self._source.dataset.name}: {', '.join(changed)} changed since the checkpoint was "
                "saved, so that its stream can't go on exactly; restore what it was, or start a new run"
            )
        self.close()
        self._state = State.from_dict(values)

    def close(self) -> None:
        """End the background work; iterating goes on where it stood."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
