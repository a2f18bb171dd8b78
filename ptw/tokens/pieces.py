"""Which text does each id stand for, so that no character is cut in half?

A character may be several ids, so that ids are taken together until their bytes are whole characters. Bytes
that never become one, as where a window cuts a text, are escaped: \\xe4.
"""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from transformers.convert_slow_tokenizer import bytes_to_unicode

from ptw.tokens.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Piece:
    """`ids[begin:end]` are `text`, whole characters; `tokens` are their names in the vocabulary."""

    begin: int
    end: int
    text: str
    tokens: tuple[str, ...]
    special: bool


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Piece]:
    """All ids, in order. Of whole ones the texts together are what the tokenizer decodes."""
    tokens = [str(token) for token in tokenizer.hf.convert_ids_to_tokens(list(ids))]
    contents = _contents(tokenizer, ids, tokens)
    found: list[Piece] = []
    begin = 0
    while begin < len(ids):
        end, text = _whole(contents, begin)
        special = ids[begin] in tokenizer.special_ids
        found.append(Piece(begin, end, text, tuple(tokens[begin:end]), special))
        begin = end
    return found


def _whole(contents: Sequence[bytes | str], begin: int) -> tuple[int, str]:
    """Where the characters end that begin here, and what they are."""
    first = contents[begin]
    if isinstance(first, str):
        return begin + 1, first
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    text, end = decoder.decode(first), begin + 1
    while decoder.getstate()[0] and end < len(contents):
        more = contents[end]
        if isinstance(more, str):
            break
        text, end = text + decoder.decode(more), end + 1
    return end, text + decoder.decode(b"", final=True)


def _contents(tokenizer: Tokenizer, ids: Sequence[int], tokens: Sequence[str]) -> list[bytes | str]:
    """Of each id its bytes, or its text where it stands for whole characters."""
    decoder = repr(tokenizer.hf.backend_tokenizer.decoder)
    if "ByteLevel" in decoder:
        return [
            _level_bytes(token, id_ in tokenizer.added_ids) for id_, token in zip(ids, tokens, strict=True)
        ]
    found: list[bytes | str] = []
    for at, token in enumerate(tokens):
        byte = _BYTE.fullmatch(token) if "ByteFallback" in decoder else None
        found.append(_text(tokenizer, ids, tokens, at) if byte is None else bytes([int(byte[1], 16)]))
    return found


def _text(tokenizer: Tokenizer, ids: Sequence[int], tokens: Sequence[str], at: int) -> str:
    """What the id adds to the text before it: a decoder writes a text's first word without its space."""
    before = _decoded(tokenizer, ids[at - 1 : at]) if at else ""
    text = _decoded(tokenizer, ids[max(at - 1, 0) : at + 1])
    return text[len(before) :] if text.startswith(before) else tokens[at]


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return str(tokenizer.hf.decode(list(ids), clean_up_tokenization_spaces=False))


def _level_bytes(token: str, added: bool) -> bytes:
    """Of GPT-2's alphabet of bytes; an added token is written as it is."""
    alphabet = _alphabet()
    if added or any(character not in alphabet for character in token):
        return token.encode()
    return bytes(alphabet[character] for character in token)


@cache
def _alphabet() -> dict[str, int]:
    return {character: byte for byte, character in bytes_to_unicode().items()}
