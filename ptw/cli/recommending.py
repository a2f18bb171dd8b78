"""Which command recommends? One that asks a run's model for items, or for what it has in place of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptw.cli.speaking import as_json, new, opened, print_json
from ptw.errors import PtwError

if TYPE_CHECKING:
    from ptw.evals.classes import Classes
    from ptw.evals.next_items import Found
    from ptw.runs.open import Opened
    from ptw.workspace.manifest import Workspace

FILE = click.Path(path_type=Path)
ONE_OF_MANY = "single_label_classification"


@click.command()
@click.argument("name", metavar="RUN[@STEP]|MODEL")
@click.argument("history", metavar="[ITEM]...", nargs=-1)
@click.option("--member", metavar="ID", help="In place of items: all that this row of the run's events has.")
@click.option("--prompt", help="In place of items: a text, of a model that talks of items.")
@click.option(
    "--now",
    multiple=True,
    metavar="KEY=VALUE",
    help="What is known of the event asked for, once a key of rows.",
)
@click.option(
    "--where", multiple=True, metavar="KEY=VALUE,VALUE", help="Only items with one of them; each holds."
)
@click.option(
    "--without", multiple=True, metavar="KEY=VALUE,VALUE", help="No items with one of them; each holds."
)
@click.option("--only", multiple=True, type=FILE, help="Only items of this text file, an id on each line.")
@click.option("--never", multiple=True, type=FILE, help="No items of this one, whatever else is asked.")
@click.option("--again", is_flag=True, help="Also items of the history.")
@click.option("--why", is_flag=True, help="Also what the filters took out of the first, and which of them.")
@new
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
    only: tuple[Path, ...],
    never: tuple[Path, ...],
    again: bool,
    why: bool,
    new: float,
    top: int,
    as_json: bool,
) -> None:
    """Recommend items after a history, or in answer to a prompt.

    ITEMs are those that somebody had, the oldest first. Where events have fields, theirs are not known, but
    those of a --member are.

    Over semantic IDs the beams run under the trie of what is allowed: nothing else can come out. Of a model
    that gives labels or numbers: what it says of the prompt.
    """
    if sum((prompt is not None, member is not None, bool(history))) > 1:
        raise click.UsageError("items, --member and --prompt stand for each other: give one of them")
    if prompt is not None and now:
        raise click.UsageError("--now is of events, and a prompt is none: give one of them")
    workspace = opened()
    from ptw.evals.classes import Classes
    from ptw.evals.filters import Filters
    from ptw.evals.later import note_on
    from ptw.evals.next_items import Request, next_items
    from ptw.train.moment import open_at

    model = open_at(workspace, name)
    classes = Classes.stored(model.loaded.hf_config)
    if classes is not None and classes.problem != ONE_OF_MANY:
        of_items: dict[str, object] = {
            "--where": where,
            "--without": without,
            "--only": only,
            "--never": never,
        }
        of_items |= {"--why": why, "--new": new}
        if asked := [option for option, given in of_items.items() if given]:
            raise PtwError(f"{asked[0]} is of items, and {name} gives none; leave it out")
        tell_said(workspace, model, classes, prompt, top, as_json)
        return
    filters = Filters(pairs("--where", where), pairs("--without", without), again, only, never)
    request = Request(history, member, prompt, singles("--now", now), filters, top, new)
    if note := note_on(model, new):
        click.echo(note, err=True)
    found = next_items(workspace, model, request, why)
    if as_json:
        print_json(_plain(found, why))
    else:
        for line in _lines(found, why):
            click.echo(line)


def tell_said(
    workspace: Workspace, model: Opened, classes: Classes, prompt: str | None, top: int, as_json: bool
) -> None:
    """Labels with their probabilities, or numbers by their names."""
    from ptw.evals.asked import as_json as plain
    from ptw.evals.asked import said

    found = said(workspace, model, classes, prompt, top)
    if as_json:
        print_json(plain(classes, found))
    else:
        for one in found:
            click.echo(f"{one.name}\t{one.value:.4f}")


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
