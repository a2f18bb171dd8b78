"""Which commands are about runs? Training, listing and showing them, exporting their models."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptw.cli.speaking import as_json, opened, print_json, print_rich, workspace_root

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
@click.option("--dry-run", is_flag=True, help="Print all that would happen, and do nothing.")
@click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, callback=as_pairs, help="Try a setting."
)
@click.option(
    "--detach", is_flag=True, help="On a cluster of jobs: leave it there; `ptw runs follow` shows it."
)
def train(name: str, resume: bool, dry_run: bool, overrides: dict[str, str], detach: bool) -> None:
    """Run a recipe of workspace.toml on Ray."""
    workspace = opened()
    if dry_run:
        from ptw.train.plan import describe, resolve

        click.echo(describe(resolve(workspace, name, overrides)))
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
    """List what ran; `ptw runs show RUN` shows one."""
    if ctx.invoked_subcommand is not None:
        return
    root = workspace_root()
    from ptw.runs import record, report

    records = [as_it_is_now(one) for one in record.list_runs(root)]
    if as_json:
        print_json([one.as_json() for one in records])
    else:
        print_rich(report.table(records))


@runs.command()
@click.argument("run")
@as_json
def show(run: str, as_json: bool) -> None:
    """Show a run: commit, data digests, settings and the loss curve."""
    root = workspace_root()
    from ptw.runs import record, report

    found = as_it_is_now(record.open_run(root, run))
    if "table" in found.plan:  # of add-model
        from ptw.agent import view

        if as_json:
            print_json(view.as_json(found))
        else:
            print_rich(view.show(found))
    elif as_json:
        print_json(found.as_json())
    else:
        print_rich(report.show(found))


@click.command()
@click.argument("run")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="A new folder.")
def export(run: str, folder: Path) -> None:
    """Write a run's model for plain transformers and vLLM."""
    workspace = opened()
    from ptw.runs.export import export_run

    click.echo(export_run(workspace, run, folder))
