"""Which commands does a user have? Each parses, calls one function, and prints.

Data goes to stdout, everything else to stderr. Exit codes: 0 passed, 1 failed or the user can mend it,
2 usage, 3 a bug of ptw's own, 130 interrupted. What is heavy is imported inside the commands that need it.
"""

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ptw import __version__
from ptw.errors import PtwError

if TYPE_CHECKING:
    from ptw.workspace.manifest import Workspace

FULL = (errno.ENOSPC, errno.EDQUOT)


class InOrder(click.Group):
    """A group whose help lists the commands as a user meets them; click has no other way to say it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def main() -> None:
    """The `ptw` command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        code = cli.main(list(arguments), prog_name="ptw", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return told("interrupted", 130)
    except PtwError as error:
        return told(str(error), 1)
    except Exception as error:
        if os.environ.get("PTW_DEBUG") == "1":
            raise
        if isinstance(error, OSError) and error.errno in FULL:
            return told(
                f"{error.filename or 'the disk'}: {error.strerror}; free some space and run it again", 1
            )
        return told(f"this is a bug in ptw: {type(error).__name__}: {error}\n{report_of(error)}", 3)
    return code if isinstance(code, int) else 0


def told(message: str, code: int) -> int:
    click.echo(f"ptw: {message}", err=True)
    return code


def report_of(error: Exception) -> str:
    """Where the traceback is, or the traceback itself when it can't be written."""
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, name = tempfile.mkstemp(prefix="ptw-bug-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"ptw {__version__}, Python {sys.version}\n{sys.argv}\n\n{text}")
    except OSError:
        return text
    return f"the traceback is in {name}; please report it (PTW_DEBUG=1 shows it here)"


def workspace_root() -> Path:
    from ptw.workspace.manifest import find

    try:
        return find(Path.cwd())
    except FileNotFoundError as error:
        raise PtwError("the current folder is gone; go to one that exists") from error


def opened() -> "Workspace":
    from ptw.workspace.manifest import read

    return read(workspace_root())


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_rich(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)


def as_pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    wrong = next(
        (value for value, pair in zip(values, pairs, strict=True) if not pair[0] or not pair[1]), None
    )
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not key=value", ctx, parameter)
    return {key: text for key, _, text in pairs}


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ptw")
def cli() -> None:
    """Post-train language models on your own data. A workspace.toml says all; start with `ptw init NAME`."""


@cli.command()
@click.argument("folder", metavar="NAME", type=click.Path(path_type=Path))
@click.option("--size", default=1500, show_default=True, help="Members of the simulated service.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of its data.")
def init(folder: Path, size: int, seed: int) -> None:
    """Make a workspace in a new folder, with simulated data."""
    from ptw.workspace.scaffold import init as make

    click.echo(make(folder, size, seed))
    click.echo(f"a workspace is ready: cd {folder} && ptw check", err=True)


@cli.command()
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


@cli.command()
def schema() -> None:
    """Print the JSON Schema of workspace.toml, for editors."""
    from ptw.workspace.schema import schema_text

    click.echo(schema_text(), nl=False)


@cli.command()
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@click.option(
    "--level",
    type=click.Choice(["practice", "acceptance"]),
    default="practice",
    show_default=True,
    help="Practice has fixed cases, acceptance draws its own.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Draw an earlier acceptance again.")
@as_json
@click.pass_context
def verify(
    ctx: click.Context,
    names: tuple[str, ...],
    level: Literal["practice", "acceptance"],
    seed: int | None,
    as_json: bool,
) -> None:
    """Check ports against Hugging Face (all, if none is named)."""
    root = workspace_root()
    from rich.console import Console

    from ptw.verify.gate import run_gates

    with Console(stderr=True).status("drawing cases") as status:  # silent when stderr is no terminal
        report = run_gates(root, names, level, seed, progress=status.update)
    if as_json:
        print_json(report.as_json())
    else:
        print_rich(report.as_text())
    ctx.exit(report.exit_code)


@cli.command()
@click.argument("name")
@click.option("--resume", is_flag=True, help="Go on with the newest run from its last checkpoint.")
@click.option("--dry-run", is_flag=True, help="Print all that would happen, and do nothing.")
@click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, callback=as_pairs, help="Try a setting."
)
def train(name: str, resume: bool, dry_run: bool, overrides: dict[str, str]) -> None:
    """Run a recipe of workspace.toml on Ray."""
    workspace = opened()
    if dry_run:
        from ptw.train.plan import describe, resolve

        click.echo(describe(resolve(workspace, name, overrides)))
        return
    from ptw.train.launch import train as launch

    click.echo(launch(workspace, name, overrides, resume).name)


@cli.group(invoke_without_command=True)
@as_json
@click.pass_context
def runs(ctx: click.Context, as_json: bool) -> None:
    """List what ran; `ptw runs show RUN` shows one."""
    if ctx.invoked_subcommand is not None:
        return
    root = workspace_root()
    from ptw.runs import record, report

    records = record.list_runs(root)
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

    found = record.open_run(root, run)
    if as_json:
        print_json(found.as_json())
    else:
        print_rich(report.show(found))


@cli.command()
@click.argument("run")
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="A new folder.")
def export(run: str, folder: Path) -> None:
    """Write a run's model for plain transformers and vLLM."""
    workspace = opened()
    from ptw.runs.export import export_run

    click.echo(export_run(workspace, run, folder))


@cli.command()
@click.argument("name", metavar="MODEL_OR_RUN")
@click.argument("prompt")
@click.option("--max-new-tokens", default=100, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--temperature", default=0.0, show_default=True, type=click.FloatRange(min=0), help="0 is greedy."
)
@as_json
def generate(name: str, prompt: str, max_new_tokens: int, temperature: float, as_json: bool) -> None:
    """Let a model or a run's model go on from a prompt."""
    workspace = opened()
    from ptw.evals.answer import answer

    text = answer(workspace, name, prompt, max_new_tokens, temperature)
    if as_json:
        print_json({"name": name, "prompt": prompt, "text": text})
    else:
        click.echo(text)


@cli.command(name="eval")
@click.argument("name", metavar="RUN_OR_MODEL")
@click.option("--dataset", help="One of [datasets]. Default: what the run's recipe names.")
@as_json
def evaluate(name: str, dataset: str | None, as_json: bool) -> None:
    """Measure a run's model on held-out data."""
    workspace = opened()
    from ptw.evals.evaluate import evaluate as measure

    metrics = measure(workspace, name, dataset)
    if as_json:
        print_json(metrics)
        return
    width = max(map(len, metrics), default=0)
    for key, value in metrics.items():
        click.echo(f"{key:<{width}}  {value:.4f}" if isinstance(value, float) else f"{key:<{width}}  {value}")


@cli.command()
@click.argument("name", metavar="ROOM/NAME")
def eject(name: str) -> None:
    """Copy a file that ptw brings into the workspace, to change it."""
    from ptw.workspace.eject import eject as copy

    click.echo(copy(workspace_root(), name))
