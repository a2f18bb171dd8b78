"""Which command looks at data? One that reads a dataset as training would, and says what it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptw.cli.speaking import as_json, opened, print_json, put
from ptw.errors import PtwError

if TYPE_CHECKING:
    from ptw.survey.survey import Limit, Survey
    from ptw.workspace.manifest import Workspace

ROWS, SECONDS = 50_000, 20.0  # read, where nothing is said


@click.command()
@click.argument("name", metavar="[DATASET]", required=False)
@click.option("--recipe", help="Read it as this recipe does. Default: the first one that names it.")
@click.option("--tokenizer", help="One of [tokenizers], in place of a recipe's.")
@click.option("--window", type=click.IntRange(min=2), help="Tokens of a packed row, in place of a recipe's.")
@click.option("--rows", type=click.IntRange(min=1), help=f"Read so many rows. Default: {ROWS:,}, or 20 s.")
@click.option("--all", "everything", is_flag=True, help="Read all of it.")
@click.option("--samples", default=3, show_default=True, type=click.IntRange(0, 100), help="Samples shown.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Which samples.")
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page for a browser.")
@as_json
@click.pass_context
def data(
    ctx: click.Context,
    name: str | None,
    recipe: str | None,
    tokenizer: str | None,
    window: int | None,
    rows: int | None,
    everything: bool,
    samples: int,
    seed: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Say what a dataset is: lengths, packing, loss mask.

    It is read, rendered and packed as training does. Without DATASET the declared ones are listed. A fault at
    which training would end is said at last, beside all that could be read, with exit code 1.
    """
    if recipe is not None and tokenizer is not None:
        raise click.UsageError("--recipe names a tokenizer: give it or --tokenizer")
    if rows is not None and everything:
        raise click.UsageError("--rows is a part, and --all is all: give one of them")
    workspace = opened()
    if name is None:
        given = [value for value in (recipe, tokenizer, window, rows, html) if value is not None]
        if given or everything:
            raise click.UsageError("it takes DATASET; without one the declared ones are listed")
        ctx.exit(listed(workspace, as_json))
    from ptw.survey.setup import chosen, dataset_named
    from ptw.survey.survey import Limit, Survey
    from ptw.tokens.declared import open_tokenizer

    dataset = dataset_named(workspace, name)
    setup, notes = chosen(workspace, name, recipe, tokenizer, window)
    survey = Survey.begin(workspace.root, dataset, open_tokenizer(workspace, setup.tokenizer), setup)
    limit = Limit() if everything else Limit(rows) if rows else Limit(ROWS, SECONDS)
    watched(survey, limit, samples, seed)
    tell(survey, notes, html, as_json)
    if survey.fault is not None:
        raise PtwError(f"training would end at this: {survey.fault}")


def listed(workspace: "Workspace", as_json: bool) -> int:
    """The declared datasets; the exit code is 1 where one can't be found."""
    from ptw.survey.declared import declared

    found = declared(workspace)
    if as_json:
        print_json([one.as_json() for one in found])
    else:
        from rich.console import Console

        from ptw.survey.report import listing

        Console().print(listing([one.as_row() for one in found]))
    return int(any(one.problem for one in found))


def watched(survey: "Survey", limit: "Limit", samples: int, seed: int) -> None:
    """Read it, with a bar where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    sizes: list[Any] = list(survey.sizes)
    total = None if None in sizes else sum(sizes)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=total)
        for count, _ in enumerate(survey.steps(limit, samples, seed)):
            if count % 100 == 0:
                done = sum(tally.content_bytes for tally in survey.tallies)
                text = f"{survey.rows:,} rows, {survey.packed.tokens:,} tokens packed"
                bar.update(task, completed=done, description=text)


def tell(survey: "Survey", notes: tuple[str, ...], html: Path | None, as_json: bool) -> None:
    """On a page, as JSON, or in the terminal."""
    from ptw.survey.figures import as_json as figures
    from ptw.survey.page import as_html
    from ptw.survey.samples import as_json as sample
    from ptw.survey.samples import views

    if html is not None:
        put(html, as_html(survey, notes))
    if as_json:
        from ptw.survey.report import HEAD, TAIL

        shown = [sample(view) for view in views(survey, HEAD, TAIL)]
        print_json({**figures(survey), "notes": list(notes), "samples": shown})
    elif html is None:
        from rich.console import Console

        from ptw.survey.report import show

        show(survey, Console(), notes)
