"""What does a page tell of a dataset, to whoever reads it later and elsewhere?"""

from collections.abc import Sequence
from pathlib import Path

from ptw.pages.page import rendered
from ptw.survey.facts import complaints, facts
from ptw.survey.figures import mixed
from ptw.survey.histogram import histogram
from ptw.survey.samples import Span, views
from ptw.survey.survey import Survey

TEMPLATE = Path(__file__).with_name("page.html.jinja")
HEAD, TAIL = 1500, 300  # tokens of a sample


def as_html(survey: Survey, notes: Sequence[str]) -> str:
    """The whole page."""
    return rendered(
        TEMPLATE,
        {"told": told},
        survey=survey,
        notes=notes,
        facts=facts(survey),
        tiles=_tiles(survey),
        mix=mixed(survey),
        complaints=complaints(survey),
        bins=histogram(survey.lengths, survey.setup.window),
        views=views(survey, HEAD, TAIL),
    )


def told(span: Span) -> str:
    """What one learns who points at a span: each id, and its name in the vocabulary."""
    return "  ".join(f"{id_} {token!r}" for id_, token in zip(span.ids, span.tokens, strict=True))


def _tiles(survey: Survey) -> list[tuple[str, str]]:
    packed, filled = survey.packed, survey.efficiency
    return [
        ("rows read", f"{survey.rows:,}"),
        ("tokens packed", f"{packed.tokens:,}"),
        ("learnt", f"{packed.learnt / packed.tokens:.1%}" if packed.tokens else "-"),
        ("of packed rows filled", "-" if filled is None else f"{filled:.1%}"),
    ]
