"""Where does a stream stand, so that another goes on with the very next row?"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from ptw.data.pack import Key
from ptw.data.shuffle import Start
from ptw.errors import PtwError

VERSION = 2  # of what places in a state mean; one of another version is taken for damaged
Keys = tuple[int, tuple[Key, ...]]  # samples of an epoch


class Refused(NamedTuple):
    """A row that is not used, and why."""

    place: str
    reason: str


BEGINNING = Start(0)


@dataclass(frozen=True)
class PartState:
    """What was read of one part. `blocks`: those that hold samples not yet handed out, and their first rows.

    What is refused, and turns of a chat that are context only or lose their thinking, are those of the part's
    first epoch.
    """

    reading: Start = BEGINNING
    index: int = 0  # rows of the block `reading` that were read
    row: int = 0  # rows read since the first epoch began
    blocks: tuple[tuple[Start, int], ...] = ()
    used: int = 0  # of these rows, those that gave samples: a mix is of these
    usable: int = 0  # of these, those of this epoch
    samples_out: int = 0  # handed out; of one in pieces, the first counts
    tokens_out: int = 0
    context: int = 0
    unsaid: int = 0
    refused_count: int = 0
    refused: tuple[Refused, ...] = ()  # the first thousand

    @property
    def epoch(self) -> int:
        """How often the part was read to its end."""
        return self.reading.epoch

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "reading": list(self.reading),
            "blocks": [[list(start), first] for start, first in self.blocks],
            "refused": [list(refused) for refused in self.refused],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PartState":
        blocks = tuple((Start(*start), int(first)) for start, first in values["blocks"])
        refused = tuple(Refused(*refused) for refused in values["refused"])
        return cls(**{**values, "reading": Start(*values["reading"]), "blocks": blocks, "refused": refused})


@dataclass(frozen=True)
class State:
    """The stream after a row was handed out."""

    parts: tuple[PartState, ...]
    open: tuple[Keys, ...] = ()  # samples in no row yet, the oldest first
    ready: tuple[Keys, ...] = ()  # rows that are packed
    epoch: int = 0
    rows_out: int = 0
    tokens_out: int = 0

    @classmethod
    def beginning(cls, parts: int) -> "State":
        return cls(tuple(PartState() for _ in range(parts)))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings: as JSON or torch.save want them."""
        return {
            **vars(self),
            "parts": [part.to_dict() for part in self.parts],
            "open": [_plain(keys) for keys in self.open],
            "ready": [_plain(keys) for keys in self.ready],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "State":
        return cls(
            **{
                **values,
                "parts": tuple(PartState.from_dict(part) for part in values["parts"]),
                "open": tuple(_keys(entry) for entry in values["open"]),
                "ready": tuple(_keys(entry) for entry in values["ready"]),
            }
        )


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with a digest of them."""
    return {**values, "digest": _digest(values)}


def unsealed(values: object) -> dict[str, Any]:
    """The values that were sealed. PtwError: they are others, or were never sealed."""
    plain = dict(values) if isinstance(values, Mapping) else {}
    digest = plain.pop("digest", None)
    try:
        whole = digest is not None and digest == _digest(plain)
    except (TypeError, ValueError, RecursionError):  # what JSON has no form for
        whole = False
    if not whole:
        raise PtwError(
            "not the state of a stream, or a damaged one, or one of an older ptw, with which it can't go on "
            "exactly; resume from another checkpoint, or start a new run"
        )
    return plain


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([VERSION, values], sort_keys=True).encode()).hexdigest()


def _plain(keys: Keys) -> list[Any]:
    return [keys[0], [list(astuple(key)) for key in keys[1]]]


def _keys(entry: tuple[int, list[tuple[int, int, int]]]) -> Keys:
    return entry[0], tuple(Key(*key) for key in entry[1])
