"""Which commands ask a model something? An answer to a prompt, or how good it is on held-out data."""

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptw.cli.speaking import as_json, new, opened, print_json, put
from ptw.errors import PtwError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ptw.runs.open import Opened
    from ptw.workspace.manifest import DatasetEntry, Workspace


@click.command()
@click.argument("name", metavar="MODEL|RUN[@STEP]")
@click.argument("prompt")
@click.option("--max-new-tokens", default=100, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--temperature", default=0.0, show_default=True, type=click.FloatRange(min=0), help="0 is greedy."
)
@as_json
def generate(name: str, prompt: str, max_new_tokens: int, temperature: float, as_json: bool) -> None:
    """Let a model or a run's model go on from a prompt.

    RUN@STEP is the model of one of the run's checkpoints.
    """
    workspace = opened()
    from ptw.evals.answer import answer
    from ptw.train.moment import open_at

    text = answer(open_at(workspace, name), prompt, max_new_tokens, temperature)
    if as_json:
        print_json({"name": name, "prompt": prompt, "text": text})
    else:
        click.echo(text)


@click.command(name="eval")
@click.argument("names", metavar="RUN[@STEP]|MODEL...", nargs=-1, required=True)
@click.option("--dataset", help="One of [datasets]. Default: what the first run's recipe names.")
@click.option("--at", metavar="K,K", help="Lists of so many items. Default: 5,10.")
@click.option("--slice", "slices", multiple=True, metavar="[item:]KEY", help="A key of rows, or of targets.")
@click.option("--attribute", metavar="KEY", help="Of items, for diversity and calibration; none for none.")
@new
@click.option("--compare", is_flag=True, help="Several runs, each beside the first.")
@click.option("--seeds", is_flag=True, help="Several runs as seeds of one: mean and deviation.")
@click.option("--alone", is_flag=True, help="The named runs only: no baselines, no further run beside.")
@click.option("--cases", metavar="N", type=click.IntRange(min=1), help="Only N sequences, drawn at random.")
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page for a browser.")
@as_json
def evaluate(names: tuple[str, ...], dataset: str | None, as_json: bool, **asked: Any) -> None:
    """Measure a run's model on held-out data.

    RUN@STEP is the model of one of the run's checkpoints. On events: what it recommends, of all items, beside
    popularity and item-kNN, with intervals; of a run over semantic IDs also beside the newest run of the same
    events over a token for each item. Among millions of users --cases 10000 tells nearly as much, and its
    intervals how sure it is. Of items, labels or numbers in place of words: how right they are,
    beside what their frequencies say alone.
    """
    if asked["compare"] and asked["seeds"]:
        raise click.UsageError("--compare and --seeds exclude each other")
    several = asked["compare"] or asked["seeds"]
    if len(names) > 1 and not several:
        raise click.UsageError("several runs: add --compare, or --seeds if they are seeds of one recipe")
    if several and len(set(names)) < 2:
        raise click.UsageError("name at least two different runs")
    workspace = opened()
    from ptw.evals.classes import Classes
    from ptw.evals.evaluate import dataset_of
    from ptw.evals.evaluate import evaluate as measure
    from ptw.train.moment import open_at

    first = open_at(workspace, names[0])
    entry = dataset_of(workspace, first, dataset)
    if Classes.stored(first.loaded.hf_config) is not None:
        refuse(
            {key: value for key, value in asked.items() if key != "at"}, f"{first.name} gives other figures"
        )
        tell_classes(workspace, first, entry, as_json, asked["at"])
        return
    if entry.format == "event":
        rest = (open_at(workspace, name) for name in names[1:])
        beside = [] if asked["alone"] or several else partners(workspace, first)
        tell(workspace, chain([first], rest), entry, as_json, beside, **asked)
        return
    refuse(asked, f"dataset {entry.name} has no events")
    metrics = measure(workspace, first, dataset)
    if as_json:
        print_json(metrics)
        return
    width = max(map(len, metrics), default=0)
    for key, value in metrics.items():
        click.echo(f"{key:<{width}}  {value:.4f}" if isinstance(value, float) else f"{key:<{width}}  {value}")


def refuse(asked: dict[str, Any], why: str) -> None:
    """PtwError for the first option that is given."""
    given = [
        f"--{key.rstrip('s')}" if key == "slices" else f"--{key}" for key, value in asked.items() if value
    ]
    if given:
        raise PtwError(f"{given[0]} is of recommendations, and {why}; leave it out")


def tell_classes(
    workspace: "Workspace", model: "Opened", entry: "DatasetEntry", as_json: bool, at: str | None
) -> None:
    """How right a model of items, labels or numbers is."""
    from ptw.evals import show_classes
    from ptw.evals.classified import CUTS, classified

    found = classified(workspace, model, entry, cuts_of(at) if at else CUTS)
    if as_json:
        print_json(show_classes.as_json(found))
    else:
        click.echo(show_classes.as_text(found))


def tell(
    workspace: "Workspace",
    runs: "Iterable[Opened]",
    entry: "DatasetEntry",
    as_json: bool,
    beside: "Iterable[Opened]",
    at: str | None,
    slices: tuple[str, ...],
    attribute: str | None,
    new: float,
    compare: bool,
    seeds: bool,
    alone: bool,
    cases: int | None,
    html: Path | None,
) -> None:
    """What runs recommend: to stdout, or to a page; what a reader must know to stderr."""
    from ptw.evals import page, show
    from ptw.evals.recommend import CUTS, Asked, demand_seeds, recommend

    cuts = cuts_of(at) if at else CUTS
    asked = Asked(cuts, slices, attribute, new=new, cases=cases, baselines=not alone)
    runs = with_notes(runs, new)
    found = recommend(workspace, demand_seeds(runs) if seeds else runs, entry, asked, beside)
    for note in show.notes(found):
        click.echo(note, err=True)
    if html is not None:
        put(html, page.as_html(found, seeds))
    if as_json:
        print_json(show.as_json(found, seeds))
    elif html is None:
        click.echo(show.as_text(found, seeds))


def with_notes(runs: "Iterable[Opened]", new: float) -> "Iterator[Opened]":
    """As they come, with what must be known of the items that came after each."""
    from ptw.evals.later import note_on

    for run in runs:
        if note := note_on(run, new):
            click.echo(note, err=True)
        yield run


def partners(workspace: "Workspace", first: "Opened") -> "Iterator[Opened]":
    """Opened when its turn comes; where it is missing that is said."""
    from ptw.evals.partner import partner_of
    from ptw.train.moment import open_at

    try:
        name = partner_of(workspace, first)
    except PtwError as error:
        click.echo(str(error), err=True)
        return
    if name is not None:
        yield open_at(workspace, name)


def cuts_of(text: str) -> tuple[int, ...]:
    """5,10,20 in order, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.UsageError(f"--at {text}: whole numbers above 0 are wanted, as in 5,10,20")
    return tuple(sorted({int(part) for part in parts}))
