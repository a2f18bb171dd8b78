"""Where does a stream stand, so that another goes on with the very next row?"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from ptw.data.pack import Key
from ptw.data.shuffle import Start
from ptw.errors import PtwError


class Refused(NamedTuple):
    """A row that is not used, and why."""

    place: str
    reason: str


BEGINNING = Start(0)


@dataclass(frozen=True)
class State:
    """The stream after a row was handed out. `blocks`: those that hold samples not yet handed out."""

    reading: Start = BEGINNING
    index: int = 0  # rows of the block `reading` that were read
    row: int = 0  # rows read since the first epoch began
    blocks: tuple[tuple[Start, int], ...] = ()
    open: tuple[Key, ...] = ()
    ready: tuple[tuple[int, tuple[Key, ...]], ...] = ()  # rows that are packed, with their epoch
    usable: int = 0  # samples of this epoch so far
    epoch: int = 0
    rows_out: int = 0
    tokens_out: int = 0
    context: int = 0
    refused_count: int = 0
    refused: tuple[Refused, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings: as JSON or torch.save want them."""
        return {
            **vars(self),
            "reading": list(self.reading),
            "blocks": [[list(start), first] for start, first in self.blocks],
            "open": [list(astuple(key)) for key in self.open],
            "ready": [[epoch, [list(astuple(key)) for key in keys]] for epoch, keys in self.ready],
            "refused": [list(refused) for refused in self.refused],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "State":
        try:
            return cls(
                **{
                    **values,
                    "reading": Start(*values["reading"]),
                    "blocks": tuple((Start(*start), int(first)) for start, first in values["blocks"]),
                    "open": tuple(Key(*key) for key in values["open"]),
                    "ready": tuple(
                        (epoch, tuple(Key(*key) for key in keys)) for epoch, keys in values["ready"]
                    ),
                    "refused": tuple(Refused(*refused) for refused in values["refused"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PtwError(
                f"not the state of a stream ({error!r}); resume from another checkpoint"
            ) from error
