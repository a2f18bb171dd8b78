"""Which words does a text have, in any script?"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import regex

# How texts are read. 1 knew no script without spaces; a vocabulary that was built so is extended so.
SPACED, NOW = 1, 2

_SPACED = re.compile(r"\w+")
# Scripts without spaces between words. Korean has some, but writes particles and parts of compounds on: of
# those, too, two characters say what a text is about more often than what stands between spaces.
_UNSPACED = ("Han", "Hiragana", "Katakana", "Hangul", "Thai", "Lao", "Khmer", "Myanmar")
_OF_RUN = "[[" + "".join(rf"\p{{scx={script}}}" for script in _UNSPACED) + r"]&&[\p{L}\p{Nl}]]"
_MARKS = r"[\p{Mn}\p{Mc}]*"  # vowels of India and South East Asia among them, of which `re` makes no word
_RUN_OR_WORD = regex.compile(rf"(?V1)((?:{_OF_RUN}{_MARKS})+)|((?:[[\p{{L}}\p{{N}}_]--{_OF_RUN}]{_MARKS})+)")
_CHARACTER = regex.compile(rf"[\p{{L}}\p{{Nl}}]{_MARKS}")
# what only says how letters join or a line breaks; a space without width does part words
_UNSEEN = regex.compile(r"(?V1)[\p{Default_Ignorable_Code_Point}--\u200B]+")


def words_of(text: str, reading: int = NOW) -> list[str]:
    """In order, and the same for the same letters in another case, width or composition of accents.

    Where a script has no spaces, every two neighbouring characters of a run are a word (one, where it is
    alone): Chinese, Japanese and Korean are searched so (Lee and Ahn, 1996), without a list of words.
    """
    if reading == SPACED or text.isascii():
        return _SPACED.findall(text.casefold())
    found: list[str] = []
    for run, word in _RUN_OR_WORD.findall(_normal(text)):
        found += _twos(run) if run else [word]
    return found


def _twos(run: str) -> list[str]:
    characters = _CHARACTER.findall(run)
    return ["".join(pair) for pair in pairwise(characters)] or characters


def _normal(text: str) -> str:
    """Like Unicode's NFKC_Casefold."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", _UNSEEN.sub("", folded))
