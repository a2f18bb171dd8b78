"""What would one tell a colleague of the dataset, line by line?"""

from collections import Counter
from collections.abc import Iterator

from ptw.survey.figures import Epoch, epoch
from ptw.survey.survey import Survey
from ptw.survey.tally import Events, Reason, Tally, quantiles

Fact = tuple[str, str]

_FATES = {
    "error": "training refuses them: set too_long, or widen the window",
    "truncate": "cut at the window",
    "split": "split into rows of the window",
    "drop": "left out whole",
}


def facts(survey: Survey) -> list[Fact]:
    """A name and a text each."""
    return [fact for part in (_read, _learnt, _packing, _lengths, _parts) for fact in part(survey)]


def complaints(survey: Survey) -> list[tuple[str, str, Reason]]:
    """Of what is not used: the part, `refused` or `faulty`, and why. At what is faulty training would end."""
    return [
        (tally.name, kind, reason)
        for tally in survey.tallies
        for kind, reasons in (("faulty", tally.faults), ("refused", tally.refused))
        for reason in reasons.listed()
    ]


def _read(survey: Survey) -> Iterator[Fact]:
    setup = survey.setup
    role = {"": "", "dataset": ""}.get(setup.role, f", as {setup.role}")
    named = f" (recipe {setup.recipe}{role})" if setup.recipe else ""
    yield "tokenizer", f"{setup.tokenizer}, window {setup.window:,}{named}"
    for note in survey.tokenizer.notes:
        yield "note", note
    yield "read", _how_much(survey)
    # that no row can be used is no news where each has been told
    if survey.ended_by not in (None, survey.fault) and any(tally.used for tally in survey.tallies):
        yield "ended by", str(survey.ended_by)


def _how_much(survey: Survey) -> str:
    rows = f"{survey.rows:,} rows in {survey.seconds:.1f} s"
    if survey.whole:
        return f"{rows}: all of it"
    order = "the first in order" if not survey.setup.shuffle else f"in the order of seed {survey.setup.seed}"
    shares = [survey.share_read(at) for at in range(len(survey.tallies))]
    known = [f"{share:.1%}" for share in shares if share is not None]
    part = f"{' and '.join(known)} of the bytes" if len(known) == len(shares) else "of a size nobody knows"
    return f"{rows}, {order}: a part, {part}; the figures below are of this part"


def _learnt(survey: Survey) -> Iterator[Fact]:
    used = sum(tally.used for tally in survey.tallies)
    refused = sum(tally.refused.count for tally in survey.tallies)
    faulty = sum(tally.faults.count for tally in survey.tallies)
    yield "samples", f"{used:,} usable; {refused:,} rows refused, {faulty:,} faulty"
    packed = survey.packed
    if packed.tokens:
        yield "tokens", f"{packed.tokens:,}, {packed.learnt:,} learnt ({packed.learnt / packed.tokens:.1%})"
    context = sum(tally.context for tally in survey.tallies)
    if context:
        chats = sum(tally.chats_with_context for tally in survey.tallies)
        yield "context", f"{context:,} assistant turns in {chats:,} chats are context only"
    unsaid = sum(tally.unsaid for tally in survey.tallies)
    if unsaid:
        yield "thinking", f"of {unsaid:,} assistant turns left out: the chat template never writes it"


def _packing(survey: Survey) -> Iterator[Fact]:
    if survey.efficiency is None:
        return
    yield "packing", f"{survey.packed.rows:,} rows of {survey.setup.window:,}, {survey.efficiency:.1%} filled"
    whole = epoch(survey)
    if whole is not None:
        yield "epoch", _epoch(whole, survey)
    else:
        yield "epoch", "unknown: what is compressed says no size; --all reads it"


def _epoch(whole: Epoch, survey: Survey) -> str:
    steps = "" if whole.steps is None else f", {whole.steps:,} steps of {survey.setup.rows}"
    if not whole.estimated:
        return f"{whole.rows:,} rows{steps}"
    return f"about {whole.tokens:,} tokens, {whole.rows:,} rows{steps}, by bytes"


def _lengths(survey: Survey) -> Iterator[Fact]:
    found = quantiles(survey.lengths)
    if found:
        yield "lengths", spread(found)


def _parts(survey: Survey) -> Iterator[Fact]:
    for tally in survey.tallies:
        of = f"{tally.name}: " if len(survey.tallies) > 1 else ""
        if tally.over:
            yield "too long", of + _too_long(tally)
        yield from ((name, of + text) for name, text in tally.labels.facts())
        if tally.events is not None:
            for name, text in _events(tally.events):
                yield name, of + text


def _too_long(tally: Tally) -> str:
    share = tally.over / tally.lengths.total()
    text = f'{tally.over:,} samples ({share:.1%}); too_long = "{tally.too_long}": {_FATES[tally.too_long]}'
    if tally.cut:
        text += f", {tally.cut_tokens:,} tokens lost ({tally.cut_tokens / sum_of(tally):.1%})"
    if tally.split:
        text += f", {tally.pieces:,} pieces of {tally.split:,}"
    if tally.too_long == "drop":
        text += f", {tally.refused_tokens:,} tokens lost ({tally.refused_tokens / sum_of(tally):.1%})"
    return (
        text if tally.cut or tally.too_long == "split" else f"{text}; {tally.over_tokens:,} tokens beyond it"
    )


def sum_of(tally: Tally) -> int:
    """All tokens before anything was cut or refused."""
    return sum(length * count for length, count in tally.lengths.items())


def _events(events: Events) -> Iterator[Fact]:
    total = sum(length * count for length, count in events.lengths.items())
    yield "users", f"{events.lengths.total():,}, of {total:,} events"
    yield "events", f"a user has: {spread(quantiles(events.lengths))}"
    yield "items", f"{len(events.seen):,} of the catalogue's {events.catalogue:,} are trained on"
    if events.unknown:
        names = ", ".join(repr(item) for item in events.unknown_items)
        yield "unknown", f"{events.unknown:,} events name items that are not in the catalogue: {names}, ..."
    if events.labels:
        share = sum(map(Counter.total, events.labels.values())) / events.events
        yield "fields", f"{share:.3g} of an event, in {events.field_ids / events.events:.3g} tokens"
        unknown = (f"{name} {counts[None] / counts.total():.1%}" for name, counts in events.labels.items())
        yield "not known", ", ".join(unknown)
    if events.leave_out:
        yield "left out", f"{events.taken:,} events, the last {events.leave_out} of each user"


def spread(found: dict[str, int]) -> str:
    """Quantiles in one line."""
    return "  ".join(f"{name} {value:,}" for name, value in found.items())
