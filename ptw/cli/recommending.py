"""Which command recommends? One that asks a run's model for items, or for what it has in place of words."""

import click

from ptw.cli.speaking import as_json, opened, print_json


@click.command()
@click.argument("name", metavar="RUN[@STEP]|MODEL")
@click.argument("history", metavar="[ITEM]...", nargs=-1)
@click.option("--prompt", help="In place of items: a text, of a model that talks of items.")
@click.option("--where", multiple=True, metavar="KEY=VALUE,VALUE", help="Only items that have one of them.")
@click.option("--without", multiple=True, metavar="KEY=VALUE,VALUE", help="No items that have one of them.")
@click.option("--again", is_flag=True, help="Also items of the history.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(1, 1000), help="So many items.")
@as_json
def recommend(
    name: str,
    history: tuple[str, ...],
    prompt: str | None,
    where: tuple[str, ...],
    without: tuple[str, ...],
    again: bool,
    top: int,
    as_json: bool,
) -> None:
    """Recommend items after a history, or in answer to a prompt.

    ITEMs are those that somebody had, the oldest first.

    Over semantic IDs the beams run under the trie of what is allowed: nothing else can come out. Of a model
    that gives labels or numbers: what it says of the prompt.
    """
    if prompt is not None and history:
        raise click.UsageError("a prompt stands in place of items: give one of them")
    workspace = opened()
    from ptw.evals import asked
    from ptw.evals.classes import Classes
    from ptw.evals.next_items import Request, next_items
    from ptw.train.moment import open_at

    request = Request(history, prompt, pairs("--where", where), pairs("--without", without), again, top)
    model = open_at(workspace, name)
    classes = Classes.stored(model.loaded.hf_config)
    if classes is not None:
        said = asked.asked(workspace, model, classes, request)
        rows = asked.as_json(classes, said)
    else:
        rows = [vars(one) for one in next_items(workspace, model, request)]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        one, value = row.values()
        click.echo(f"{one}\t{value:.4f}")


def pairs(option: str, given: tuple[str, ...]) -> dict[str, list[str]]:
    """Keys with their values; of a key that is named twice all values."""
    found: dict[str, list[str]] = {}
    for text in given:
        key, equals, values = text.partition("=")
        if not key or not equals or not values:
            raise click.UsageError(f"{option} {text}: KEY=VALUE is wanted, as in genres=crime,drama")
        found.setdefault(key, []).extend(values.split(","))
    return found
