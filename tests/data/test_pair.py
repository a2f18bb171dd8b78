"""A query and its documents stay together, each ends as a text does, and equal texts are known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptw.data.fit import fit
from ptw.data.pack import lay_out
from ptw.data.pair import Pairs
from ptw.data.render import render
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.learn import texts_of
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

Build = Callable[..., Tokenizer]


def entry(**values: Any) -> DatasetEntry:
    return DatasetEntry("pairs", ("pairs.jsonl",), "pair", **values)


def pair(tokenizer: Tokenizer, dataset: DatasetEntry | None = None, **values: Any) -> Sample:
    return render(Row("pairs.jsonl:3", values), dataset or entry(), tokenizer)


def documents(sample: Sample) -> list[list[int]]:
    return [part.tolist() for part in np.split(sample.ids, np.cumsum(sample.documents)[:-1])]


def test_each_text_is_a_document_that_ends_as_a_text_does(chat_tokenizer: Build) -> None:
    tokenizer = chat_tokenizer()
    prompted = entry(query_prompt="query: ", document_prompt="passage: ")
    sample = pair(tokenizer, prompted, query="Hi", positive="there", negatives=["no", "nor this"])
    texts = ["query: Hi", "passage: there", "passage: no", "passage: nor this"]
    alone = [render(Row("a:1", {"text": text}), DatasetEntry("t", (), "text"), tokenizer) for text in texts]
    assert documents(sample) == [one.ids.tolist() for one in alone]
    ends = [ids[-1] for ids in documents(sample)]
    assert sample.ids[sample.learn].tolist() == ends
    assert tokenizer.eos_id is None or set(ends) == {tokenizer.eos_id}
    row = lay_out([sample, sample], 2 * len(sample.ids) + 3, 0)
    assert row.lengths == sample.documents * 2
    assert row.documents == (4, 4)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"query": "a"}, "`positive` is None: it must be a text"),
        ({"positive": "a", "query": " "}, "`query` is ' ': it must be a text"),
        ({"query": "a", "positive": "b", "negatives": "c"}, "`negatives` is 'c': it must be a list"),
        ({"query": "a", "positive": "b", "negatives": ["c", 3]}, r"`negatives\[1\]` is 3"),
        ({"query": "a", "positive": "b", "negatives": ["b"]}, "`positive` is among its `negatives`"),
    ],
)
def test_a_row_that_is_no_pair_is_named(chat_tokenizer: Build, values: Any, words: str) -> None:
    with pytest.raises(PtwError, match=rf"pairs\.jsonl:3: .*{words}"):
        pair(chat_tokenizer(), **values)


def test_what_is_too_long_is_cut_and_still_ends(chat_tokenizer: Build) -> None:
    tokenizer = chat_tokenizer()
    sample = pair(tokenizer, query="Hi", positive="very long, " * 30, negatives=["also long, " * 30])
    whole = documents(sample)
    (cut,), reason = fit(sample, entry(too_long="truncate"), len(whole[0]) + 40)
    assert reason is None
    assert documents(cut) == [whole[0], *([*ids[:19], ids[-1]] for ids in whole[1:])]
    with pytest.raises(PtwError, match='too_long = "truncate" or "drop"'):
        fit(sample, entry(), 50)


def test_equal_texts_are_known_across_rows() -> None:
    def sample(*texts: int) -> Sample:
        ids = np.array([part for text in texts for part in (1, text, 2)], np.int32)
        return Sample("", ids, np.zeros(len(ids), bool), (3,) * len(texts))

    rows = [
        lay_out([sample(10, 20, 21), sample(11, 22)], 20, 0),  # candidates 0 to 2
        lay_out([sample(10, 23), sample(12, 20, 22)], 20, 0),  # candidates 3 to 5
    ]
    pairs = Pairs.of(rows)
    assert pairs.queries == (0, 3, 5, 7)
    assert pairs.candidates == [1, 2, 4, 6, 8, 9]
    assert [pairs.candidates[at] for at in pairs.targets] == [1, 4, 6, 8]
    # of 10 both 20 and 23 are right, 20 twice; of 12 the other 20; of 11 the negative of 12, which is its 22
    assert sorted(pairs.also_right(pairs.candidates)) == [(0, 3), (0, 4), (1, 5), (2, 0), (2, 4), (3, 0)]


def test_a_querys_own_text_is_no_wrong_document() -> None:
    def sample(*texts: int) -> Sample:
        return Sample("", np.array(texts, np.int32), np.zeros(len(texts), bool), (1,) * len(texts))

    # 10 is a document of 11's and a negative of 12's; 13 is to find itself, as where dropout alone differs
    rows = [lay_out([sample(10, 20), sample(11, 10), sample(12, 21, 10), sample(13, 13)], 20, 0)]
    pairs = Pairs.of(rows)
    assert pairs.candidates == [1, 3, 5, 6, 8]
    assert sorted(pairs.also_right(pairs.candidates)) == [(0, 1), (0, 3), (1, 3)]


def test_a_tokenizer_learns_from_all_texts_of_pairs() -> None:
    rows = [Row("a:1", {"query": "q", "positive": "p", "negatives": ["n", "m"]})]
    assert list(texts_of(rows, "pair", "words")) == ["q", "p", "n", "m"]
    with pytest.raises(PtwError, match="a:2: `negatives` must be a list"):
        list(texts_of([Row("a:2", {"query": "q", "positive": "p", "negatives": "n"})], "pair", "words"))
