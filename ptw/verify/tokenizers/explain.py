"""How do two sides part on a text? Character by character, each side's tokens, and the likely culprit."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ptw.tokens.awkward_chats import AwkwardChat
from ptw.tokens.sides import Piece, Side, pieces
from ptw.verify.tokenizers import culprit
from ptw.verify.tokenizers.culprit import Culprit, first_difference

SHOWN = 60  # characters of a text around the place
BEFORE, AFTER = 2, 4  # tokens around the place
TRIED = 24  # differing texts of which the culprit is looked for
MOST = 3  # culprits that are told of


def explained(
    ours: Side,
    theirs: Side,
    differing: Mapping[str, Sequence[Any]],
    inputs: Mapping[str, Mapping[str, Any]],
    known: set[str],
) -> list[str]:
    """What a failure says: of each culprit the shortest text, and how many of those tried it accounts for.

    `differing`: the trainer's answer and the side's by METRIC/NAME; a name that is no text or chat is said as
    it is. `known`: the culprits that this side has been told of, which are named only; grows by new ones.
    """
    found: dict[str, list[tuple[str, Culprit]]] = {}
    keys = sorted(differing, key=lambda key: (_length(key, inputs), key))[:TRIED]
    for key in keys:
        said, why = _one(key, ours, theirs, differing[key], inputs)
        found.setdefault(why.part, []).append((said, why))
    told = []
    for part, examples in list(found.items())[:MOST]:
        more = f" (and {len(examples) - 1} more of the {len(keys)} tried)" if len(examples) > 1 else ""
        said, why = examples[0]
        if not part:
            told.append(f"{said}{more}")
        elif part in known:
            told.append(f"because of {part.partition(' (')[0]}, as said{more}")
        else:
            told.append(f"{said}\n  culprit: {part}{' ' if why.effect else ''}{why.effect}{more}")
    known.update(part for part in found if part)
    return told


def _one(
    key: str, ours: Side, theirs: Side, answers: Sequence[Any], inputs: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Culprit]:
    """The text with the place at which the sides part, and why."""
    metric, _, name = key.partition("/")
    text, chat = inputs["texts"].get(name), inputs["chats"].get(name)
    if isinstance(text, str) and all(isinstance(answer, str) for answer in answers):
        return _of_strings(f"{name}: what comes back of {text!r}", answers, ours, theirs), Culprit("")
    if isinstance(text, str) and isinstance(answers[0], list):
        return _of_text(name, text, ours, theirs, metric == "around")
    if isinstance(chat, AwkwardChat):
        return _of_chat(name, chat, ours, theirs, answers)
    here, there = culprit.around_change(*("none" if answer is None else str(answer) for answer in answers))
    return f"{name!r} is {there} there, {here} here", Culprit("")


def _of_chat(
    name: str, chat: AwkwardChat, ours: Side, theirs: Side, answers: Sequence[Any]
) -> tuple[str, Culprit]:
    one, other = ours.chat(chat), theirs.chat(chat)
    if one is None or one != other:
        return _of_strings(name, (one, other), ours, theirs), culprit.of_template(ours, theirs)
    if ours.encode(one) != theirs.encode(one):
        return _of_text(name, one, ours, theirs, special=False)
    lengths = [len(answer) if answer is not None else 0 for answer in answers]
    said = f"{name}: {lengths[1]} ids there, {lengths[0]} here, of the same text"
    return said, Culprit("what encodes the template's text")


def _of_text(name: str, text: str, ours: Side, theirs: Side, special: bool) -> tuple[str, Culprit]:
    """Where the sides first part, and what each gives there: id, token and its piece of the text."""
    one, other = pieces(ours, text, special), pieces(theirs, text, special)
    at = first_difference([piece.id for piece in one], [piece.id for piece in other])
    place = min((side[at].start for side in (one, other) if at < len(side)), default=len(text))
    said = [
        f"{name}: {_shown(text, place)} parts at {_character(text, place)}",
        f"  {theirs.name}: {_tokens(text, other, at)}",
        f"  {ours.name}: {_tokens(text, one, at)}",
    ]
    return "\n".join(said), culprit.of_text(text, place, ours, theirs, special)


def _of_strings(what: str, answers: Sequence[str | None], ours: Side, theirs: Side) -> str:
    one, other = answers
    if one is None or other is None:
        here, there = ("refuses it" if answer is None else "takes it" for answer in answers)
        return f"{what}: {theirs.name} {there}, {ours.name} {here}"
    at = first_difference(one, other)
    return "\n".join(
        [
            f"{what}: parts at {_character(one, at)}",
            f"  {theirs.name}: {_shown(other, at)}",
            f"  {ours.name}: {_shown(one, at)}",
        ]
    )


def _tokens(text: str, found: Sequence[Piece], at: int) -> str:
    """`«` stands before the first that differs."""
    start, end = max(0, at - BEFORE), at + AFTER
    said = [
        f"{'« ' if number == at else ''}{piece.id} {piece.token!r} of {text[piece.start : piece.end]!r}"
        for number, piece in enumerate(found[start:end], start)
    ]
    ends = ["« the end"] if at >= len(found) else ["…"] if end < len(found) else []
    return ", ".join([*(["…"] if start else []), *said, *ends])


def _shown(text: str, place: int) -> str:
    start = max(0, place - SHOWN // 2)
    end = start + SHOWN
    return f"{'…' if start else ''}{text[start:end]!r}{'…' if end < len(text) else ''}"


def _character(text: str, place: int) -> str:
    if place >= len(text):
        return f"its end, character {len(text)}"
    one = text[place]
    return f"character {place}, {one!r} (U+{ord(one):04X} {unicodedata.name(one, 'without a name')})"


def _length(key: str, inputs: Mapping[str, Mapping[str, Any]]) -> int:
    text = inputs["texts"].get(key.partition("/")[2])
    return len(text) if isinstance(text, str) else 0
