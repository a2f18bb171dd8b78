"""Which command recommends? One that asks a run's model for the next items, under filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ptw.cli.speaking import as_json, opened, print_json

if TYPE_CHECKING:
    from ptw.evals.next_items import Found


@click.command()
@click.argument("name", metavar="RUN[@STEP]|MODEL")
@click.argument("history", metavar="[ITEM]...", nargs=-1)
@click.option("--member", metavar="ID", help="In place of items: all that this row of the run's events has.")
@click.option("--prompt", help="In place of items: a text, of a model that talks of items.")
@click.option(
    "--now", multiple=True, metavar="KEY=VALUE", help="What is known of the event that is asked for."
)
@click.option("--where", multiple=True, metavar="KEY=VALUE,VALUE", help="Only items that have one of them.")
@click.option("--without", multiple=True, metavar="KEY=VALUE,VALUE", help="No items that have one of them.")
@click.option("--again", is_flag=True, help="Also items of the history.")
@click.option("--why", is_flag=True, help="Also what the filters took out of the first, and which of them.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1, 1000), help="So many items.")
@as_json
def recommend(
    name: str,
    history: tuple[str, ...],
    member: str | None,
    prompt: str | None,
    now: tuple[str, ...],
    where: tuple[str, ...],
    without: tuple[str, ...],
    again: bool,
    why: bool,
    top: int,
    as_json: bool,
) -> None:
    """Recommend the items that come after a history.

    ITEMs are those that somebody had, the oldest first. Where events have fields, theirs are not known, but
    those of a --member are.

    Over semantic IDs the beams run under the trie of what is allowed: nothing else can come out.
    """
    if sum((prompt is not None, member is not None, bool(history))) > 1:
        raise click.UsageError("items, --member and --prompt stand for each other: give one of them")
    if prompt is not None and now:
        raise click.UsageError("--now is of events, and a prompt is none: give one of them")
    workspace = opened()
    from ptw.evals.filters import Filters
    from ptw.evals.next_items import Request, next_items
    from ptw.train.moment import open_at

    filters = Filters(pairs("--where", where), pairs("--without", without), again)
    request = Request(history, member, prompt, singles("--now", now), filters, top)
    found = next_items(workspace, open_at(workspace, name), request, why)
    if as_json:
        print_json(_plain(found, why))
    else:
        for line in _lines(found, why):
            click.echo(line)


def _plain(found: Found, why: bool) -> object:
    recommended = [vars(one) for one in found.recommended]
    if not why:
        return recommended
    return {"recommended": recommended, "kept_out": [vars(one) for one in found.kept_out]}


def _lines(found: Found, why: bool) -> list[str]:
    """Columns between tabs: the item, its title where it has one, its score or what keeps it out."""
    shown = [_line(one.item, one.title, f"{one.log_probability:.4f}") for one in found.recommended]
    if not why:
        return shown
    first = f"of the first {len(found.recommended)} without filters:"
    if not found.kept_out:
        return [*shown, "", f"{first} all are allowed"]
    out = [_line(f"{one.place}. {one.item}", one.title, "; ".join(one.reasons)) for one in found.kept_out]
    return [*shown, "", f"{first} kept out are", *out]


def _line(item: str, title: str | None, rest: str) -> str:
    return "\t".join([item, *([title] if title else []), rest])


def pairs(option: str, given: Sequence[str]) -> dict[str, list[str]]:
    """Keys with their values; of a key that is named twice all values."""
    found: dict[str, list[str]] = {}
    for text in given:
        key, values = parted(option, text, "genres=crime,drama")
        found.setdefault(key, []).extend(values.split(","))
    return found


def singles(option: str, given: Sequence[str]) -> dict[str, str]:
    """Keys with a value each."""
    found = dict(parted(option, text, "device=tv") for text in given)
    if len(found) < len(given):
        raise click.UsageError(f"{option}: a key is named twice")
    return found


def parted(option: str, text: str, example: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals or not value:
        raise click.UsageError(f"{option} {text}: KEY=VALUE is wanted, as in {example}")
    return key, value
