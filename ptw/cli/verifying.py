"""What can be asked of the gate, and where does its report go? To a table, and to files."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ptw.cli.speaking import print_json, print_rich, workspace_root
from ptw.errors import PtwError

if TYPE_CHECKING:
    from ptw.verify.reports.report import Report

STDOUT = Path("-")


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--tokenizers", is_flag=True, help="Only tokenizers, not ports.")
@click.option(
    "--level",
    type=click.Choice(["practice", "acceptance"]),
    default="practice",
    show_default=True,
    help="Practice has fixed cases, acceptance draws its own.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Draw an earlier acceptance again.")
@click.option("--changed-since", metavar="REF", help="Only what changed since a branch or commit.")
@click.option("--only", metavar="VERIFIER", multiple=True, help="While working: ask these alone. No verdict.")
@click.option("--fresh", is_flag=True, help="Verify also what has not changed since it passed.")
@click.option("--json", "json_file", metavar="FILE", type=click.Path(path_type=Path), help="'-': stdout.")
@click.option("--junit", "junit_file", metavar="FILE", type=click.Path(path_type=Path), help="JUnit XML.")
@click.option(
    "--report", "html_file", metavar="FILE.html", type=click.Path(path_type=Path), help="A page to read."
)
@click.option("--mutants", is_flag=True, help="Score the gate itself, on ports with one mistake each.")
@click.option("--full-table", is_flag=True, help="With --mutants: which verifiers kill each, not the first.")
@click.pass_context
def verify(
    ctx: click.Context,
    names: tuple[str, ...],
    tokenizers: bool,
    level: Literal["practice", "acceptance"],
    seed: int | None,
    changed_since: str | None,
    only: tuple[str, ...],
    fresh: bool,
    json_file: Path | None,
    junit_file: Path | None,
    html_file: Path | None,
    mutants: bool,
    full_table: bool,
) -> None:
    """Check ports and tokenizers against Hugging Face's.

    All, if none is named. NAME is a port, a model, a tokenizer, or a run: its exported tokenizer is checked.
    """
    root = workspace_root()
    if mutants or full_table:
        asked = level != "practice" or seed is not None or changed_since or only or junit_file or html_file
        if not mutants or asked or tokenizers:
            raise click.UsageError("--mutants takes ports, --full-table and --json; --full-table needs it")
        ctx.exit(score(root, names, full_table, json_file))
    from ptw.verify.verify import Request
    from ptw.verify.verify import verify as verified

    request = Request(
        names, level, seed, changed_since, fresh, only, traced=html_file is not None, tokenizers=tokenizers
    )
    with progress() as tell:
        report = verified(root, request, tell)
    write(report, json_file, junit_file, html_file)
    if json_file != STDOUT:
        from rich.console import Console

        from ptw.verify.reports.text import show

        show(report, Console())
    ctx.exit(report.exit_code)


def score(root: Path | None, names: tuple[str, ...], full: bool, json_file: Path | None) -> int:
    """The gate's own: the exit code is 0 when nothing that differs from the reference passes it."""
    from ptw.verify.mutants.mutate import run_mutants

    with progress() as tell:
        found = run_mutants(root, names, tell, full=full)
    if json_file == STDOUT:
        print_json(found.as_json())
        return found.exit_code
    if json_file is not None:
        put(json_file, json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
    print_rich(found.as_text())
    return found.exit_code


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """The phase at work, and a line for each that has ended; silent when stderr is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: None
        return
    told = [""]

    def tell(step: str) -> None:
        if told[0] and named(step) != named(told[0]):
            console.print(told[0], style="dim", highlight=False)
        told[0] = step
        status.update(step)

    with console.status("looking up verdicts") as status:
        yield tell
    if told[0]:
        console.print(told[0], style="dim", highlight=False)


def named(step: str) -> str:
    """The phase, without how far it has come."""
    return step.partition(":")[0].partition(" (")[0]


def write(report: "Report", json_file: Path | None, junit_file: Path | None, html_file: Path | None) -> None:
    """Each file aside, then renamed: a reader never sees half of one."""
    if json_file == STDOUT:
        print_json(report.as_json())
    elif json_file is not None:
        put(json_file, json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    if junit_file is not None:
        from ptw.verify.reports.junit import as_junit

        put(junit_file, as_junit(report))
    if html_file is not None:
        from ptw.verify.reports.html import as_html

        put(html_file, as_html(report))


def put(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(aside, 0o666 & ~mask)
        os.replace(aside, file)
    except OSError as error:
        raise PtwError(f"{file}: cannot be written: {error.strerror or error}") from error
