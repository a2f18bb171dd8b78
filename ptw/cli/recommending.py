"""Which command recommends? One that asks a run's model for the next items, under filters."""

import click

from ptw.cli.speaking import as_json, opened, print_json


@click.command()
@click.argument("name", metavar="RUN[@STEP]|MODEL")
@click.argument("history", metavar="[ITEM]...", nargs=-1)
@click.option("--prompt", help="In place of items: a text, of a model that talks of items.")
@click.option(
    "--now", multiple=True, metavar="KEY=VALUE", help="What is known of the event that is asked for."
)
@click.option("--where", multiple=True, metavar="KEY=VALUE,VALUE", help="Only items that have one of them.")
@click.option("--without", multiple=True, metavar="KEY=VALUE,VALUE", help="No items that have one of them.")
@click.option("--again", is_flag=True, help="Also items of the history.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1, 1000), help="So many items.")
@as_json
def recommend(
    name: str,
    history: tuple[str, ...],
    prompt: str | None,
    now: tuple[str, ...],
    where: tuple[str, ...],
    without: tuple[str, ...],
    again: bool,
    top: int,
    as_json: bool,
) -> None:
    """Recommend the items that come after a history.

    ITEMs are those that somebody had, the oldest first. Where events have fields, theirs are not known.

    Over semantic IDs the beams run under the trie of what is allowed: nothing else can come out.
    """
    if prompt is not None and history:
        raise click.UsageError("a prompt stands in place of items: give one of them")
    if prompt is not None and now:
        raise click.UsageError("--now is of events, and a prompt is none: give one of them")
    workspace = opened()
    from ptw.evals.next_items import Request, next_items
    from ptw.train.moment import open_at

    filters = {"where": pairs("--where", where), "without": pairs("--without", without)}
    request = Request(history, prompt, now=singles("--now", now), again=again, top=top, **filters)
    found = next_items(workspace, open_at(workspace, name), request)
    if as_json:
        print_json([vars(one) for one in found])
        return
    for one in found:
        click.echo(f"{one.item}\t{one.log_probability:.4f}")


def pairs(option: str, given: tuple[str, ...]) -> dict[str, list[str]]:
    """Keys with their values; of a key that is named twice all values."""
    found: dict[str, list[str]] = {}
    for text in given:
        key, values = parted(option, text, "genres=crime,drama")
        found.setdefault(key, []).extend(values.split(","))
    return found


def singles(option: str, given: tuple[str, ...]) -> dict[str, str]:
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
