"""Which commands are about semantic IDs? Building a vocabulary, adding items to it, looking at it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ptw.cli.speaking import as_json, opened, print_json, print_rich, put

if TYPE_CHECKING:
    from ptw.workspace.manifest import Workspace

page = click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page, too.")


@click.group()
def vocab() -> None:
    """Make semantic IDs: a code of each level for each item."""


@vocab.command()
@click.argument("name", metavar="VOCABULARY")
@page
@as_json
def build(name: str, html: Path | None, as_json: bool) -> None:
    """Make the first version of a vocabulary, or one that knows nothing of those before.

    Models that learnt another version refuse it: `ptw vocab extend` adds items without that.
    """
    from ptw.vocab.build import build as make

    workspace = opened()
    tell(workspace, make(workspace, name, say), html, as_json)


@vocab.command()
@click.argument("name", metavar="VOCABULARY")
@click.option("--items", "file", required=True, metavar="FILE", help="Items in the form of the first ones.")
@click.option(
    "--refit",
    default=0,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="Move the codebooks by so many steps of k-means: codes of old items change, and how many is told.",
)
@page
@as_json
def extend(name: str, file: str, refit: int, html: Path | None, as_json: bool) -> None:
    """Add new items, with codes that are free; no old item gets another code."""
    from ptw.vocab.build import extend as make

    workspace = opened()
    tell(workspace, make(workspace, name, file, refit, say), html, as_json)


@vocab.command()
@click.argument("name", metavar="[VOCABULARY]", required=False)
@page
@as_json
@click.pass_context
def show(ctx: click.Context, name: str | None, html: Path | None, as_json: bool) -> None:
    """Say how good the codes are; without VOCABULARY which ones there are."""
    workspace = opened()
    if name is not None:
        from ptw.tokens.semantic import chosen_version, version_folder
        from ptw.vocab.build import entry_of

        entry = entry_of(workspace, name)
        version = chosen_version(workspace.root, entry)
        tell(workspace, version_folder(workspace.root, name, version), html, as_json)
        return
    if html is not None:
        raise click.UsageError("--html takes VOCABULARY")
    from ptw.vocab.report import listed, listing

    found = listed(workspace)
    if as_json:
        print_json(found)
    else:
        print_rich(listing(found))


def say(text: str) -> None:
    click.echo(text, err=True)


def tell(workspace: "Workspace", folder: Path, html: Path | None, as_json: bool) -> None:
    """What a version is: in the terminal or as JSON, and on a page where one is asked for."""
    from ptw.vocab.report import Report, report_of, table

    report: Report = report_of(workspace, folder)
    if html is not None:
        from ptw.vocab.page import as_html

        put(html, as_html(report))
    if as_json:
        print_json(report.as_json())
    else:
        print_rich(table(report))
