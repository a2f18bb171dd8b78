"""Which commands are about runs? Training, listing and showing them, exporting their models."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ptw.cli.speaking import as_json, opened, print_json, print_rich, put, workspace_root
from ptw.errors import PtwError

if TYPE_CHECKING:
    from ptw.runs.record import RunRecord


def as_pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    wrong = next(
        (value for value, pair in zip(values, pairs, strict=True) if not pair[0] or not pair[1]), None
    )
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not key=value", ctx, parameter)
    return {key: text for key, _, text in pairs}


@click.command()
@click.argument("name")
@click.option("--resume", is_flag=True, help="Go on with the newest run from its last checkpoint.")
@click.option(
    "--dry-run", is_flag=True, help="Print all that would happen and what memory it takes, and do nothing."
)
@click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, callback=as_pairs, help="Try a setting."
)
@click.option(
    "--detach", is_flag=True, help="On a cluster of jobs: leave it there; `ptw runs follow` shows it."
)
def train(name: str, resume: bool, dry_run: bool, overrides: dict[str, str], detach: bool) -> None:
    """Run a recipe of workspace.toml, here or on a Ray cluster."""
    workspace = opened()
    if dry_run:
        from ptw.train.fits import told
        from ptw.train.plan import demand_sense, describe, resolve

        plan = resolve(workspace, name, overrides)
        demand_sense(plan)
        click.echo(f"{describe(plan)}\n{told(plan)}")
        return
    from ptw.train.jobs.train import train as launch

    click.echo(launch(workspace, name, overrides, resume, detach))


def as_it_is_now(found: "RunRecord") -> "RunRecord":
    """Asks the cluster that it trains on, if there is one."""
    if found.job is None or found.state != "running":
        return found
    from ptw.train.jobs.follow import refreshed

    return refreshed(found)


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def runs(ctx: click.Context, as_json: bool) -> None:
    """List what ran, show a run, compare two."""
    if ctx.invoked_subcommand is not None:
        return
    root = workspace_root()
    from ptw.runs import record, report

    records = [as_it_is_now(one) for one in record.list_runs(root)]
    if as_json:
        print_json([one.as_json() for one in records])
    else:
        print_rich(report.table(records))


html_file = click.option(
    "--html", "html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page for a browser."
)


@runs.command()
@click.argument("run")
@html_file
@as_json
def show(run: str, html: Path | None, as_json: bool) -> None:
    """Show a run: commit, data digests, settings and the loss curve; --html draws every figure."""
    root = workspace_root()
    from ptw.runs import record, report

    found = as_it_is_now(record.open_run(root, run))
    if "table" in found.plan:  # of add-model
        if html is not None:
            raise PtwError(f"{found.name}: --html is for training runs; --json has the conversation whole")
        from ptw.agent import view

        if as_json:
            print_json(view.as_json(found))
        else:
            print_rich(view.show(found))
        return
    if html is not None:
        from ptw.runs import page

        put(html, page.as_html(found))
    if as_json:
        print_json(found.as_json())
    elif html is None:
        print_rich(report.show(found))


@runs.command()
@click.argument("a", metavar="RUN")
@click.argument("b", metavar="OTHER_RUN")
@click.option(
    "--by",
    type=click.Choice(["step", "tokens", "seconds"]),
    default="step",
    show_default=True,
    help="What curves run over: runs of other windows or rows meet at tokens.",
)
@html_file
@as_json
def compare(
    a: str, b: str, by: Literal["step", "tokens", "seconds"], html: Path | None, as_json: bool
) -> None:
    """Compare two runs: what they were made from, and both curves."""
    root = workspace_root()
    from ptw.runs import compare as comparing
    from ptw.runs import record

    found = comparing.Comparison.of(record.open_run(root, a), record.open_run(root, b))
    if html is not None:
        put(html, comparing.as_html(found, by))
    if as_json:
        print_json(comparing.as_json(found, by))
    elif html is None:
        print_rich(comparing.show(found, by))


@click.command()
@click.argument("run", metavar="RUN[@STEP]")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--adapter", is_flag=True, help="Only the run's LoRA adapter, for PEFT and vLLM.")
def export(run: str, folder: Path, adapter: bool) -> None:
    """Write a run's model for plain transformers and vLLM.

    RUN@STEP is the model of one of the run's checkpoints.
    """
    workspace = opened()
    from ptw.train.moment import export as exported

    click.echo(exported(workspace, run, folder, adapter))
