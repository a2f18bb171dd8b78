"""How is a sample shown, so that one sees what is learnt of it, to the character?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ptw.survey.survey import Shown, Survey
from ptw.tokens.pieces import Piece, pieces

CONTEXT = 8  # ids before a tail: more than a character has, so that it begins with a whole one


@dataclass(frozen=True)
class Span:
    """Ids that are whole characters; `learnt`: there is a loss on them."""

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    learnt: bool
    special: bool


@dataclass(frozen=True)
class View:
    """A sample's first and last spans, `left_out` ids between them, and what was done to it."""

    id: str
    part: str
    tokens: int
    learnt: int
    fate: str
    head: tuple[Span, ...]
    left_out: int
    tail: tuple[Span, ...]


def views(survey: Survey, head: int, tail: int) -> list[View]:
    """Each sample that was drawn, with about so many ids of its beginning and its end."""
    return [_view(survey, shown, head, tail) for shown in survey.shown]


def _view(survey: Survey, shown: Shown, head: int, tail: int) -> View:
    ids = shown.sample.ids.tolist()
    # the first id of a document is never predicted
    learn = [False, *shown.sample.learn[1:].tolist()]
    first, last = _spans(survey, ids, learn, 0, len(ids)), list[tuple[int, Span]]()
    if len(ids) > head + tail:
        first = [entry for entry in _spans(survey, ids, learn, 0, head + CONTEXT) if entry[0] < head]
        begin = len(ids) - tail
        last = [entry for entry in _spans(survey, ids, learn, begin - CONTEXT, len(ids)) if entry[0] >= begin]
    shown_ids = sum(len(span.ids) for _, span in (*first, *last))
    return View(
        shown.sample.id,
        shown.part,
        len(ids),
        sum(learn),
        _fate(shown, len(ids)),
        tuple(span for _, span in first),
        len(ids) - shown_ids,
        tuple(span for _, span in last),
    )


def _spans(
    survey: Survey, ids: Sequence[int], learn: Sequence[bool], begin: int, end: int
) -> list[tuple[int, Span]]:
    return [
        (begin + piece.begin, _span(piece, ids[begin:end], learn[begin:end]))
        for piece in pieces(survey.tokenizer, ids[begin:end])
    ]


def _span(piece: Piece, ids: Sequence[int], learn: Sequence[bool]) -> Span:
    own = slice(piece.begin, piece.end)
    return Span(visible(piece.text), tuple(ids[own]), piece.tokens, any(learn[own]), piece.special)


def visible(text: str) -> str:
    """Nothing is unseen, nor does it move a cursor: a line's end is a sign before it, the rest is escaped."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\n":
        return "↵\n"
    if character in "⟦⟧":  # which mark what is learnt
        return character.encode("ascii", "backslashreplace").decode()
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def _fate(shown: Shown, kept: int) -> str:
    if shown.pieces > 1:
        return f"piece 1 of {shown.pieces}, {shown.length:,} tokens in all"
    return f"cut from {shown.length:,} tokens" if kept < shown.length else ""


def runs(spans: Sequence[Span]) -> Iterator[tuple[str, bool, bool]]:
    """Text, learnt and special, of neighbours that are alike."""
    held, kind = "", (False, False)
    for span in spans:
        if held and kind != (span.learnt, span.special):
            yield held, *kind
            held = ""
        held, kind = held + span.text, (span.learnt, span.special)
    if held:
        yield held, *kind


def as_json(view: View) -> dict[str, Any]:
    """The spans in order; between `head` and `tail` so many ids are left out."""
    return {
        **vars(view),
        "head": [vars(span) for span in view.head],
        "tail": [vars(span) for span in view.tail],
    }
