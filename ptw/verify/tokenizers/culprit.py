"""Which part of a tokenizer makes a text's ids differ? Each stage is run on both sides, in order."""

from __future__ import annotations

import json
from itertools import zip_longest
from typing import Any, NamedTuple

from ptw.tokens.sides import FLAGS, Side

LONGEST = 120  # characters of a part of tokenizer.json, or of a template's line, that are shown
UNKNOWN = "what stands around tokenizer.json (tokenizer_config.json)"


class Culprit(NamedTuple):
    """`there` is the side that is held to the trainer, `here` the trainer."""

    part: str
    effect: str = ""  # on the text


def of_text(text: str, place: int, ours: Side, theirs: Side, special: bool) -> Culprit:
    """The part that first does something else to this text, of which the sides part at `place`."""
    part = _between_added(text, place, ours)
    return (
        _added(text, ours, theirs)
        or _normalizer(part, ours, theirs)
        or _pre_tokenizer(part, ours, theirs)
        or (_around(text, ours, theirs) if special else None)
        or _model(ours, theirs)
        or Culprit(UNKNOWN)
    )


def of_template(ours: Side, theirs: Side) -> Culprit:
    """The first line of the chat template that differs."""
    one, other = ours.template, theirs.template
    if one is None or other is None:
        lacking = ours if one is None else theirs
        return Culprit(f"the chat template, which {lacking.name} has not")
    if one == other:
        named = [name for name, token in ours.named.items() if token != theirs.named.get(name)]
        return Culprit(f"{named[0]} in the template" if named else "what renders the same template")
    lines = zip_longest(one.splitlines(keepends=True), other.splitlines(keepends=True), fillvalue="")
    number, (a, b) = next((at, pair) for at, pair in enumerate(lines, 1) if pair[0] != pair[1])
    here, there = around_change(a, b)
    return Culprit(f"line {number} of the chat template", f"is {there!r} there, {here!r} here")


def _between_added(text: str, place: int, side: Side) -> str:
    """What stands between the added tokens around the place: they are cut out before all else."""
    befores = [text.rfind(token, 0, place) + len(token) for token in side.added if token in text[:place]]
    start = max(befores, default=0)
    ends = [text.index(token, start) for token in side.added if token and token in text[start:]]
    found = text[start : min(ends, default=len(text))]
    return found or text


def _added(text: str, ours: Side, theirs: Side) -> Culprit | None:
    """An added token that stands in the text and that the other lacks or finds by other rules."""
    for token in sorted({*ours.added, *theirs.added}, key=len, reverse=True):
        had, has = ours.added.get(token), theirs.added.get(token)
        if had == has or token.strip() not in text:
            continue
        if had is None or has is None:
            return Culprit(
                f"added token {token!r}", f"which {(ours if had is None else theirs).name} has not"
            )
        differ = [key for key in ("id", *FLAGS) if had[key] != has[key]]
        said = ", ".join(f"{key} is {_json(has[key])} there, {_json(had[key])} here" for key in differ)
        return Culprit(f"added token {token!r}", said)
    return None


def _normalizer(text: str, ours: Side, theirs: Side) -> Culprit | None:
    one, other = (_normalized(side, text) for side in (ours, theirs))
    if one == other:
        return None
    at = first_difference(one, other)
    return Culprit(
        _parts("normaliser", "normalizer", ours, theirs),
        f"makes {other[at : at + 8]!r} there, {one[at : at + 8]!r} here",
    )


def _pre_tokenizer(text: str, ours: Side, theirs: Side) -> Culprit | None:
    one, other = (_splits(side, text) for side in (ours, theirs))
    if one == other:
        return None
    at = first_difference(one, other)
    there, here = ([piece for piece, _ in splits[at : at + 3]] for splits in (other, one))
    return Culprit(
        _parts("pre-tokeniser", "pre_tokenizer", ours, theirs), f"splits {there} there, {here} here"
    )


def _around(text: str, ours: Side, theirs: Side) -> Culprit | None:
    """What is put around a text, where the text alone is the same."""
    if ours.encode(text) != theirs.encode(text):
        return None
    there, here = (_tokens(side, side.encode("", special=True) or []) for side in (theirs, ours))
    return Culprit(
        _parts("post-processor", "post_processor", ours, theirs), f"puts {there} there, {here} here"
    )


def _model(ours: Side, theirs: Side) -> Culprit | None:
    """The same pieces have other ids: another vocabulary, other merges, another setting of the model."""
    one, other = (side.model for side in (ours, theirs))
    for key in sorted({*one, *other} - {"vocab", "merges"}):
        if one.get(key) != other.get(key):
            return Culprit("the model", f"{key} is {_json(other.get(key))} there, {_json(one.get(key))} here")
    lacking = [token for token in ours.vocabulary if token not in theirs.vocabulary]
    more = [token for token in theirs.vocabulary if token not in ours.vocabulary]
    moved = [token for token, id_ in ours.vocabulary.items() if theirs.vocabulary.get(token, id_) != id_]
    kinds = ((lacking, "lack there"), (more, "are more there"), (moved, "have another id there"))
    for tokens, how in kinds:
        if tokens:
            return Culprit("the vocabulary", f"{len(tokens)} tokens {how}, as {tokens[0]!r}")
    had, has = (list(side.get("merges") or []) for side in (one, other))
    if had == has:
        return None
    at = first_difference(had, has)
    there, here = (merges[at] if at < len(merges) else "none" for merges in (has, had))
    return Culprit(
        "the merges", f"{len(has)} there, {len(had)} here; number {at} is {there} there, {here} here"
    )


def first_difference(one: Any, other: Any) -> int:
    """The first place at which two sequences differ; the length of the shorter where it begins the longer."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _normalized(side: Side, text: str) -> str:
    return text if side.backend.normalizer is None else str(side.backend.normalizer.normalize_str(text))


def _splits(side: Side, text: str) -> list[Any]:
    normalized = _normalized(side, text)
    found = side.backend.pre_tokenizer
    return [(normalized, ())] if found is None else list(found.pre_tokenize_str(normalized))


def _parts(words: str, name: str, ours: Side, theirs: Side) -> str:
    """The part as tokenizer.json writes it on both sides, around the place where they part."""
    here, there = around_change(*(_json(side.part(name)) for side in (ours, theirs)))
    return f"the {words} ({there} there, {here} here)" if here != there else f"the {words} ({here})"


def around_change(one: str, other: str) -> tuple[str, str]:
    """Two texts, shortened alike to where they differ."""
    start = max(0, first_difference(one, other) - LONGEST // 3)
    return _cut(one, start), _cut(other, start)


def _cut(text: str, start: int) -> str:
    start = 0 if len(text) <= LONGEST else start
    end = start + LONGEST
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def _tokens(side: Side, ids: list[int]) -> str:
    return " ".join(repr(side.backend.id_to_token(id_)) for id_ in ids) or "nothing"


def _json(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
