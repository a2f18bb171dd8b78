"""How do a query and the documents to tell apart for it lie in a sample, and in the rows of a step?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ptw.data.messages import short
from ptw.data.pack import PackedRow
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry


def render_texts(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Sample:
    """The query, then its positive, then its negatives, a document each; what is learnt comes after its end.

    PtwError: a text that is none or empty, or a negative that is the positive.
    """
    query, *documents = _texts(row.value)
    texts = [dataset.query_prompt + query, *(dataset.document_prompt + text for text in documents)]
    sides = [_ended(tokenizer, text) for text in texts]
    lengths = tuple(map(len, sides))
    learn = np.zeros(sum(lengths), bool)
    learn[np.cumsum(lengths) - 1] = True
    return Sample(row.place, np.concatenate(sides), learn, lengths, keeps_ends=True)


def _texts(values: dict[str, Any]) -> list[str]:
    negatives = values.get("negatives") or []
    if not isinstance(negatives, list):
        raise PtwError(f"`negatives` is {short(negatives)}: it must be a list of strings, or left out")
    named: list[tuple[str, Any]] = [("query", values.get("query")), ("positive", values.get("positive"))]
    named += [(f"negatives[{at}]", text) for at, text in enumerate(negatives)]
    for key, text in named:
        if not isinstance(text, str) or not text.strip():
            hint = "a pair row has `query` and `positive`, and `negatives`, a list, where it has some"
            raise PtwError(f"`{key}` is {short(text)}: it must be a text; {hint}")
    if values["positive"] in negatives:
        raise PtwError("`positive` is among its `negatives`, so there is nothing to tell apart; drop one")
    return [str(text) for _, text in named]


def _ended(tokenizer: Tokenizer, text: str) -> np.ndarray:
    ids = tokenizer.text_ids(text)
    if len(ids) < 2:
        raise PtwError(f"{short(text)} is a single token, and tokenizer {tokenizer.name} ends no text")
    return np.array(ids, dtype=np.int32)


@dataclass(frozen=True)
class Pairs:
    """Of K documents of rows, in order: which are the N queries, and which texts are the same.

    The document after a query is its positive, and those up to the next query are its negatives.
    """

    queries: tuple[int, ...]  # places among the documents
    texts: tuple[int, ...]  # each document's number; equal ids have one number

    @classmethod
    def of(cls, rows: Iterable[PackedRow]) -> Pairs:
        numbers: defaultdict[bytes, int] = defaultdict(lambda: len(numbers))
        queries: list[int] = []
        texts: list[int] = []
        for row in rows:
            starts = accumulate(row.documents, initial=len(texts))
            queries += [start for start, _ in zip(starts, row.documents, strict=False)]
            texts += [numbers[part.tobytes()] for part in _parts(row)]
        return cls(tuple(queries), tuple(texts))

    @property
    def candidates(self) -> list[int]:
        """The places of all documents that are no queries: what every query is compared with."""
        queries = set(self.queries)
        return [place for place in range(len(self.texts)) if place not in queries]

    @property
    def targets(self) -> list[int]:
        """Where among the candidates each query's positive is: before it lie the queries up to its own."""
        return [place - at for at, place in enumerate(self.queries)]

    def also_right(self, candidates: Sequence[int]) -> list[tuple[int, int]]:
        """Which candidates are right for a query too: (its number, theirs), equal and further positives.

        A query's positives are those of every row with the same query, and its own text where a document has
        it: no vector could be nearer. Its own row's positive is not among them.
        """
        answers: defaultdict[int, set[int]] = defaultdict(set)
        for place in self.queries:
            answers[self.texts[place]] |= {self.texts[place], self.texts[place + 1]}
        holding: defaultdict[int, list[int]] = defaultdict(list)
        for at, place in enumerate(candidates):
            holding[self.texts[place]].append(at)
        return [
            (number, at)
            for number, place in enumerate(self.queries)
            for text in answers[self.texts[place]]
            for at in holding[text]
            if candidates[at] != place + 1
        ]


def _parts(row: PackedRow) -> list[np.ndarray]:
    """The ids of each of the row's documents; none of a row without samples."""
    ends = list(accumulate(row.lengths))
    return np.split(row.ids[: ends[-1]], ends[:-1]) if row.samples else []
