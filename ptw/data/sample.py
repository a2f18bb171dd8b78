"""What does one row become?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Label = float | str | tuple[str, ...] | Mapping[str, float]  # a number, one name, any names, several numbers


@dataclass(frozen=True)
class Sample:
    """What belongs together: it lies in one packed row, or is left out as a whole.

    `learn[i]`: `ids[i]` is a target; the first id of a document never is. `lengths` are those of its
    documents, where it has several. `context` counts assistant turns that are context only, `unsaid` those
    whose thinking the template leaves out. `label` is what a person or a teacher made of it. `keeps_ends`: a
    document that is cut keeps its last id. `events`: how many ids each event of a sequence has, none of which
    is ever cut; what begins the sequence is in none.
    """

    id: str
    ids: np.ndarray
    learn: np.ndarray
    lengths: tuple[int, ...] = ()
    context: int = 0
    unsaid: int = 0
    label: Label | None = None
    keeps_ends: bool = False
    events: tuple[int, ...] = ()

    @property
    def documents(self) -> tuple[int, ...]:
        return self.lengths or (len(self.ids),)

    @property
    def learns(self) -> bool:
        """Whether each of its documents has a target."""
        begins = np.cumsum([0, *self.documents[:-1]])
        parts = zip(begins, self.documents, strict=True)
        return all(self.learn[begin + 1 : begin + length].any() for begin, length in parts)
