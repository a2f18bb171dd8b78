"""Which figures does a survey come to, for people and for programs?"""

from dataclasses import asdict, dataclass
from typing import Any

from ptw.survey.histogram import histogram
from ptw.survey.survey import Survey
from ptw.survey.tally import Reasons, Tally, quantiles


@dataclass(frozen=True)
class Epoch:
    """What training reads in an epoch; `estimated` by bytes where not all was read."""

    samples: int
    tokens: int
    learnt: int
    rows: int
    steps: int | None
    estimated: bool


@dataclass(frozen=True)
class PartFigures:
    """A part of a mix. Shares are of what was handed out; `times` it is read until the mix's epoch ends."""

    name: str
    declared: float
    samples: int
    of_samples: float
    of_tokens: float
    times: float | None


def epoch(survey: Survey) -> Epoch | None:
    """None where nobody knows which part of the data was read."""
    scale = 1.0
    if not survey.whole:
        share = _share_read(survey)
        if not share:
            return None
        scale = 1 / share
    packed, setup = survey.packed, survey.setup
    rows = round(packed.rows * scale)
    return Epoch(
        samples=round(sum(part.samples_out for part in survey.parts) * scale),
        tokens=round(packed.tokens * scale),
        learnt=round(packed.learnt * scale),
        rows=rows,
        steps=None if setup.rows is None else -(-rows // setup.rows),
        estimated=not survey.whole,
    )


def mixed(survey: Survey) -> list[PartFigures]:
    """Of a mix each part; nothing of what is none."""
    if not survey.dataset.mix:
        return []
    samples = sum(part.samples_out for part in survey.parts)
    tokens = sum(part.tokens_out for part in survey.parts)
    weights = sum(share.weight for share in survey.dataset.mix)
    return [
        PartFigures(
            share.dataset.name,
            share.weight / weights,
            part.samples_out,
            part.samples_out / max(samples, 1),
            part.tokens_out / max(tokens, 1),
            _times(survey, at),
        )
        for at, (share, part) in enumerate(zip(survey.dataset.mix, survey.parts, strict=True))
    ]


def as_json(survey: Survey) -> dict[str, Any]:
    """All figures; lengths in tokens, shares from 0 to 1, null where nobody knows."""
    setup, whole = survey.setup, epoch(survey)
    return {
        "dataset": survey.dataset.name,
        "format": survey.dataset.format,
        "recipe": setup.recipe,
        "role": setup.role or None,
        "tokenizer": setup.tokenizer,
        "tokenizer_notes": list(survey.tokenizer.notes),
        "window": setup.window,
        "seconds": survey.seconds,
        "whole": survey.whole,
        "fault": None if survey.fault is None else str(survey.fault),
        "ended_by": None if survey.ended_by is None else str(survey.ended_by),
        "read": {
            "rows": survey.rows,
            "share": _share_read(survey),
            "packed_rows": survey.packed.rows,
            "tokens": survey.packed.tokens,
            "learnt": survey.packed.learnt,
            "efficiency": survey.efficiency,
        },
        "epoch": None if whole is None else asdict(whole),
        "lengths": quantiles(survey.lengths),
        "histogram": [asdict(one) for one in histogram(survey.lengths, setup.window)],
        "parts": [_part(tally, survey.share_read(at)) for at, tally in enumerate(survey.tallies)],
        "mix": [asdict(part) for part in mixed(survey)],
    }


def _share_read(survey: Survey) -> float | None:
    """By bytes; of a mix that of the part which ends its epoch."""
    if not survey.dataset.mix:
        return survey.share_read(0)
    shares = [survey.share_read(at) for at in range(len(survey.parts))]
    # the slowest part is the one of which the least was read: the others are ahead, or begin again
    return None if None in shares else min((share for share in shares if share is not None), default=None)


def _times(survey: Survey, at: int) -> float | None:
    """How often a part is read until the epoch of the mix ends."""
    part, tally = survey.parts[at], survey.tallies[at]
    share, slowest = survey.share_read(at), _share_read(survey)
    if not tally.used or not share or not slowest:
        return None
    # after a whole epoch both shares are 1
    return part.used / tally.used * share / slowest


def _part(tally: Tally, share_read: float | None) -> dict[str, Any]:
    plain = {
        key: value for key, value in vars(tally).items() if isinstance(value, int | str) and key != "window"
    }
    return {
        **plain,
        "share_read": share_read,
        "lengths": quantiles(tally.lengths),
        "refused": _reasons(tally.refused),
        "faults": _reasons(tally.faults),
        "labels": tally.labels.as_json() if tally.labels.rows else None,
        "events": None if tally.events is None else _events(tally),
    }


def _events(tally: Tally) -> dict[str, Any]:
    events = tally.events
    assert events is not None
    return {
        "users": events.lengths.total(),
        "events": sum(length * count for length, count in events.lengths.items()),
        "per_user": quantiles(events.lengths),
        "leave_out": events.leave_out,
        "left_out": events.taken,
        "catalogue": events.catalogue,
        "items_seen": len(events.seen),
        "unknown": events.unknown,
        "unknown_items": events.unknown_items,
        "fields": {
            name: {label or "": count for label, count in counts.items()}
            for name, counts in events.labels.items()
        },
        "field_ids": events.field_ids,
    }


def _reasons(reasons: Reasons) -> dict[str, Any]:
    listed = [
        {"text": reason.text, "rows": reason.count, "places": reason.places} for reason in reasons.listed()
    ]
    return {"rows": reasons.count, "reasons": listed}
