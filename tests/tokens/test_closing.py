"""AutoTokenizer gives a text the ids that it has in training, and nothing else of the tokenizer changes."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from ptw.tokens import fingerprint, grown
from ptw.tokens.closing import closing
from ptw.tokens.fields import Fields
from ptw.tokens.learn import learn
from ptw.tokens.pipeline import PROBES
from ptw.tokens.semantic import SemanticIds
from ptw.tokens.tokenizer import Tokenizer, load_tokenizer
from ptw.workspace.manifest import FieldEntry


def demand_closed(tokenizer: Tokenizer, folder: Path) -> None:
    closed = closing(tokenizer)
    closed.save(folder)
    plain = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for probe in (*PROBES, "", "a"):
        assert list(plain(probe)["input_ids"]) == tokenizer.text_ids(probe)
    short = plain(PROBES[0], truncation=True, max_length=7)["input_ids"]
    assert short[-1] == tokenizer.text_ids("")[-1]
    batch = plain(["a", PROBES[0]], padding=True)
    assert len(batch["input_ids"][0]) == len(batch["input_ids"][1])
    assert closed.fingerprint == tokenizer.fingerprint
    assert fingerprint.read(folder) == tokenizer.fingerprint
    assert plain.chat_template == tokenizer.hf.chat_template
    assert closing(load_tokenizer(folder)).hf.get_vocab() == tokenizer.hf.get_vocab()


@pytest.mark.parametrize(
    "name",
    [
        "stories260K/hf",  # begins texts itself, can't pad
        "tokenizers/gpt2",
        "tokenizers/phi-3-mini",
        pytest.param("tokenizers/qwen2.5", marks=pytest.mark.slow),
    ],
)
def test_real_tokenizers_close_texts(real_data: Path, tmp_path: Path, name: str) -> None:
    demand_closed(load_tokenizer(real_data / name), tmp_path)


def test_a_learnt_tokenizer_closes_texts_and_one_that_does_stays(tmp_path: Path) -> None:
    tokenizer = Tokenizer(learn(["some text, " * 9], 300), "words")
    assert closing(tokenizer) is not tokenizer
    demand_closed(tokenizer, tmp_path)
    again = load_tokenizer(tmp_path)
    assert closing(again) is again


def test_it_keeps_its_items_and_the_fields_of_its_events() -> None:
    ids = SemanticIds("films", 2, ("Up", "Heat"), np.array([[0], [1]], np.int32))
    fields = Fields([FieldEntry("device", "before", "device", values=("tv", "phone"))])
    hf = grown.grow(learn(["some text, " * 9], 300), "words", {"films": ids}, fields.said)
    closed = closing(Tokenizer(hf, "words", vocabularies={"films": ids}, fields=fields))
    assert closed.item_ids(["Heat"]) == closed.code_ids("films")[0][1:]
    assert len(closed.events(["Up"], {"device": ["tv"]})[0].ids) == 2
