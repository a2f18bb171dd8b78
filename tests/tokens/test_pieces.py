"""Ids become text character by character: nothing is lost, nothing is cut, what is broken is escaped."""

from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from ptw.tokens.learn import learn
from ptw.tokens.pieces import pieces
from ptw.tokens.tokenizer import Tokenizer

TEXT = "Hi 日本 🙂👩‍👩‍👧 naïve\n\ufffd <|im_start|>\u200b."


def byte_level() -> Tokenizer:
    return Tokenizer(learn(["Hello there, how are you?"] * 20, 300), "level")


def byte_fallback() -> Tokenizer:
    """As Llama 2 and Phi-3 have it: words after a mark for the space, and a token for each byte."""
    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "H", "i", "▁H", "▁Hi", "."]
    merges = [("▁", "H"), ("▁H", "i")]
    backend = tokenizers.Tokenizer(
        models.BPE(
            {word: id_ for id_, word in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(prepend="▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", left=1, right=0),
        ]
    )
    hf: Any = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")
    return Tokenizer(hf, "fallback")


BUILT = {"byte level": byte_level(), "byte fallback": byte_fallback()}


@pytest.mark.parametrize("kind", BUILT)
@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.just(TEXT), st.text(max_size=20)))
def test_the_pieces_together_are_the_text_and_every_id_once(kind: str, text: str) -> None:
    tokenizer = BUILT[kind]
    ids = tokenizer.encode(text)
    found = pieces(tokenizer, ids)
    assert "".join(piece.text for piece in found) == tokenizer.decode(ids)
    assert [piece.begin for piece in found] == [0, *(piece.end for piece in found)][:-1]
    assert sum(len(piece.tokens) for piece in found) == len(ids)


@pytest.mark.parametrize("kind", BUILT)
def test_a_text_that_is_cut_anywhere_shows_its_broken_bytes(kind: str) -> None:
    tokenizer = BUILT[kind]
    ids = tokenizer.encode("日本🙂")
    for begin in range(len(ids)):
        for end in range(begin, len(ids) + 1):
            found = pieces(tokenizer, ids[begin:end])
            assert "\ufffd" not in "".join(piece.text for piece in found)
            # a decoder leaves out the mark of a space that begins a text
            assert all(piece.text or piece.tokens == ("▁",) for piece in found)
    assert [piece.text for piece in pieces(tokenizer, ids[-3:])][-1:] == ["\\x9f\\x99\\x82"] or (
        [piece.text for piece in pieces(tokenizer, ids[-3:])] == ["\\x9f", "\\x99", "\\x82"]
    )


def test_a_special_token_is_told_from_text_that_looks_like_it() -> None:
    tokenizer = BUILT["byte level"]
    ids = tokenizer.chat([{"role": "user", "content": "Hello"}])
    assert [piece.text for piece in pieces(tokenizer, ids) if piece.special] == ["<|im_start|>", "<|im_end|>"]
