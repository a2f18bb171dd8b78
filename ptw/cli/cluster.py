"""Which commands are about runs that train elsewhere? Following, stopping and fetching them."""

import click

from ptw.cli.speaking import workspace_root
from ptw.cli.training import runs


@runs.command()
@click.argument("run")
def follow(run: str) -> None:
    """Show a run that trains on a cluster, and fetch it when it is done; Ctrl-C leaves it alone."""
    root = workspace_root()
    from ptw.runs import record
    from ptw.train.jobs import follow as following

    click.echo(following.follow(record.open_run(root, run)).name)


@runs.command()
@click.argument("run")
def stop(run: str) -> None:
    """Ask a run to save and stop; `ptw train RECIPE --resume` goes on with it."""
    root = workspace_root()
    from ptw.runs import record
    from ptw.train.jobs import follow as following

    found = following.refreshed(record.open_run(root, run))
    following.stop(found)
    click.echo(f"{found.name}: it stops after this step, with a checkpoint", err=True)


@runs.command()
@click.argument("run")
@click.option("--checkpoints", is_flag=True, help="Also these, to go on with it on this machine.")
def fetch(run: str, checkpoints: bool) -> None:
    """Bring a run from its cluster: record, metrics, events and model."""
    root = workspace_root()
    from ptw.runs import record
    from ptw.train.jobs import follow as following

    click.echo(following.fetch(record.open_run(root, run), checkpoints))
