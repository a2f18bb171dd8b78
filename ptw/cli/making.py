"""Which commands are about the workspace itself? Making one, checking it, taking over a stock file."""

from pathlib import Path

import click

from ptw.cli.speaking import as_json, print_json, told, workspace_root


@click.command()
@click.argument("folder", metavar="[NAME]", required=False, type=click.Path(path_type=Path))
@click.option("--size", default=1500, show_default=True, help="Members of the simulated service.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of its data.")
@click.option(
    "--ci",
    "system",
    type=click.Choice(["github", "gitlab"]),
    help="Put every pull request through the gate; without NAME in the workspace that you are in.",
)
def init(folder: Path | None, size: int, seed: int, system: str | None) -> None:
    """Make a workspace in a new folder, with simulated data."""
    if folder is None:
        if system is None:
            raise click.UsageError("Missing argument 'NAME'.")
        from ptw.workspace.ci import add

        for file in add(workspace_root(), system):
            click.echo(file)
        return
    from ptw.workspace.scaffold import init as make

    click.echo(make(folder, size, seed, system))
    click.echo(f"a workspace is ready: cd {folder} && ptw check", err=True)


@click.command()
@as_json
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Say all that is wrong with workspace.toml."""
    from ptw.workspace.check import checked

    found = checked(workspace_root())
    if as_json:
        print_json(found.as_json())
    else:
        click.echo("\n".join(str(problem) for problem in found.problems) or found.summary)
    if found.problems:
        ctx.exit(told(f"problems in workspace.toml: {len(found.problems)}", 1))


@click.command()
def schema() -> None:
    """Print the JSON Schema of workspace.toml, for editors."""
    from ptw.workspace.schema import schema_text

    click.echo(schema_text(), nl=False)


@click.command()
@click.argument("name", metavar="ROOM/NAME")
def eject(name: str) -> None:
    """Copy a file that ptw brings into the workspace, to change it."""
    from ptw.workspace.eject import eject as copy

    click.echo(copy(workspace_root(), name))
