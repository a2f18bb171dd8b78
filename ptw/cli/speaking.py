"""How does a command speak? Data to stdout, the rest to stderr; it opens the workspace that it runs in."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptw.errors import PtwError

if TYPE_CHECKING:
    from ptw.workspace.manifest import Workspace

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def told(message: str, code: int) -> int:
    click.echo(f"ptw: {message}", err=True)
    return code


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
