"""A tokenizer with semantic IDs: the whole code space, items in texts and events, whose codes they are."""

import dataclasses
import json
from pathlib import Path

import pytest

from ptw.data.fit import fit
from ptw.data.render import render
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens import fingerprint
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.semantic import SemanticIds
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.workspace.manifest import Workspace, read
from tests.train.conftest import with_codes

TOML = """
[workspace]
name = "films"
[semantic_ids.films]
items = "data/items.jsonl"
levels = 2
codebook_size = 4
[tokenizers.words]
learn_from = "texts"
vocab_size = 300
semantic_ids = "films"
special_tokens = ["<|binge|>"]
[tokenizers.codes]
semantic_ids = ["films"]
[datasets.texts]
source = "data/texts.jsonl"
format = "text"
[datasets.chats]
source = "data/texts.jsonl"
format = "chat"
[datasets.views]
source = "data/texts.jsonl"
format = "event"
too_long = "truncate"
"""
CODES = [[0, 0], [0, 1], [3, 2], [1, 3]]


def version(root: Path, number: int, codes: list[list[int]], ancestors: list[str]) -> SemanticIds:
    names = [f"f{n}" for n in range(len(codes))]
    file = "data/items.jsonl"
    return with_codes(
        root, "films", codes, items=names, size=4, file=file, version=number, ancestors=ancestors
    )


@pytest.fixture
def films(tmp_path: Path) -> Workspace:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "items.jsonl").write_text("".join(f'{{"id": "f{n}"}}\n' for n in range(4)))
    (tmp_path / "data" / "texts.jsonl").write_text('{"text": "I watched a film and liked it."}\n' * 9)
    (tmp_path / "workspace.toml").write_text(TOML)
    version(tmp_path, 1, CODES, [])
    return read(tmp_path)


def test_the_whole_code_space_is_reserved_and_never_split(films: Workspace) -> None:
    tokenizer = open_tokenizer(films, "words")
    first = tokenizer.size - 9
    assert tokenizer.code_ids("films") == [[first + n for n in range(4)], [first + 4 + n for n in range(4)]]
    assert tokenizer.encode("<|films.0.3|><|films.1.2|>") == [first + 3, first + 6]
    assert tokenizer.decode([first + 3, first + 6]) == "<|films.0.3|><|films.1.2|>"
    binge = tokenizer.hf.convert_tokens_to_ids("<|binge|>")
    assert binge in tokenizer.special_ids
    assert first + 3 not in tokenizer.special_ids
    assert first in tokenizer.answer_ids
    assert binge not in tokenizer.answer_ids
    plain = "I watched a film and liked it."
    alone = dataclasses.replace(films.tokenizers["words"], semantic_ids=(), special_tokens=())
    bare = open_tokenizer(dataclasses.replace(films, tokenizers={"words": alone}), "words")
    assert bare.encode(plain) == tokenizer.encode(plain)
    assert bare.fingerprint != tokenizer.fingerprint


def test_items_in_texts_are_their_codes(films: Workspace) -> None:
    tokenizer = open_tokenizer(films, "words")
    spelt = tokenizer.items.spelt({"a": ["See <|films:f2|>!", 3], "b": "<|other:f2|>"})
    assert spelt == {"a": ["See <|films.0.3|><|films.1.2|>!", 3], "b": "<|other:f2|>"}
    assert tokenizer.items.named(spelt["a"][0]) == "See <|films:f2|>!"
    assert tokenizer.items.named("<|films.0.2|><|films.1.2|>") == "<|films.0.2|><|films.1.2|>", "no item's"
    row = Row("d:1", {"text": "See <|films:f2|>!"})
    ids = render(row, films.datasets["texts"], tokenizer).ids.tolist()
    assert tokenizer.encode("See <|films.0.3|><|films.1.2|>!") == [i for i in ids if i != tokenizer.eos_id]
    with pytest.raises(PtwError, match=r"d:1: <\|films:f9\|>: there is no item 'f9' among the 4"):
        render(Row("d:1", {"text": "See <|films:f9|>!"}), films.datasets["texts"], tokenizer)


def test_a_chat_learns_the_codes_of_its_answer(films: Workspace) -> None:
    tokenizer = open_tokenizer(films, "words")
    messages = [{"role": "user", "content": "Next?"}, {"role": "assistant", "content": "<|films:f1|>"}]
    sample = render(Row("d:1", {"messages": messages}), films.datasets["chats"], tokenizer)
    learnt = sample.ids[sample.learn].tolist()
    codes = tokenizer.code_ids("films")
    assert learnt[:2] == [codes[0][0], codes[1][1]]


@pytest.mark.parametrize("name", ["words", "codes"])
def test_events_are_all_codes_of_their_items(films: Workspace, name: str) -> None:
    tokenizer = open_tokenizer(films, name)
    codes, views = tokenizer.code_ids("films"), films.datasets["views"]
    assert tokenizer.item_length == 2
    sample = render(Row("d:1", {"items": ["f2", "f3", "f0"]}), views, tokenizer)
    assert sample.ids.tolist() == [
        tokenizer.bos_id,
        *(codes[0][3], codes[1][2], codes[0][1], codes[1][3], codes[0][0], codes[1][0]),
    ]
    (cut,), _ = fit(sample, views, 4)
    assert cut.ids.tolist() == [tokenizer.bos_id, codes[0][0], codes[1][0]], "an item is not cut"
    parts, _ = fit(sample, dataclasses.replace(views, too_long="split"), 4)
    assert [len(part.ids) for part in parts] == [3, 4]
    assert tokenizer.unknown_items(["f1", "f7", "films.0.1"]) == ["f7", "films.0.1"]
    with pytest.raises(PtwError, match="item 'f7' is not in tokenizer"):
        render(Row("d:1", {"items": ["f7"]}), views, tokenizer)


def test_it_comes_back_with_its_items(films: Workspace, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(films, "words")
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint == tokenizer.fingerprint
    assert again.vocabularies["films"].digest == tokenizer.vocabularies["films"].digest
    assert again.items.spelt("<|films:f3|>") == "<|films.0.1|><|films.1.3|>"
    saved = tmp_path / "saved" / "semantic_ids" / "films" / "vocabulary.json"
    facts = json.loads(saved.read_text())
    saved.write_text(json.dumps({**facts, "codebook_size": 5, "digest": None}))
    with pytest.raises(
        PtwError, match="its tokenizer is not the one that was saved there: other semantic_ids"
    ):
        load_tokenizer(tmp_path / "saved")


def opened(films: Workspace, number: int) -> Tokenizer:
    entry = dataclasses.replace(films.semantic_ids["films"], version=number)
    return open_tokenizer(dataclasses.replace(films, semantic_ids={"films": entry}), "words")


def test_only_codes_that_were_made_of_the_old_ones_fit_a_model(films: Workspace) -> None:
    old = opened(films, 1)
    first = old.vocabularies["films"].digest
    version(films.root, 2, [*CODES, [2, 2]], [first])  # extended
    version(films.root, 3, [[1, 1], *CODES[1:]], [first])  # refitted
    version(films.root, 4, [[1, 1], *CODES[1:]], [])  # built anew
    version(films.root, 5, CODES[:3], [])  # an item is gone
    assert fingerprint.first_difference(old, opened(films, 2)) is None
    assert fingerprint.first_difference(old, opened(films, 3)) is None
    told = fingerprint.first_difference(old, opened(films, 4))
    assert told is not None
    assert told.startswith("1 of 4 items of semantic_ids.films have other codes here")
    assert "was not made of its version 1" in told
    assert fingerprint.first_difference(old, opened(films, 5)) is not None
    bare = open_tokenizer(films, "codes")
    assert fingerprint.first_difference(old, bare) is not None


def test_a_token_that_is_there_is_not_added_again(films: Workspace) -> None:
    entry = dataclasses.replace(films.tokenizers["words"], special_tokens=("<|im_end|>",))
    with pytest.raises(PtwError, match=r"it has a token '<\|im_end\|>' already"):
        open_tokenizer(dataclasses.replace(films, tokenizers={"words": entry}), "words")


def test_what_was_not_built_says_how(films: Workspace) -> None:
    entry = dataclasses.replace(films.semantic_ids["films"], name="shows")
    tokenizer = dataclasses.replace(films.tokenizers["codes"], semantic_ids=("shows",))
    other = dataclasses.replace(films, semantic_ids={"shows": entry}, tokenizers={"codes": tokenizer})
    with pytest.raises(PtwError, match="none was built yet; run `ptw vocab build shows`"):
        open_tokenizer(other, "codes")
