"""How does a command speak? Data to stdout, the rest to stderr; it opens the workspace that it runs in."""

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptw.errors import PtwError

if TYPE_CHECKING:
    from ptw.workspace.manifest import Workspace

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
new = click.option(
    "--new",
    default=0.0,
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    help="So much of each list for items that `ptw vocab extend` added after the training: 0.1 is a tenth.",
)


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


def put(file: Path, text: str) -> None:
    """Written aside, then renamed: a reader never sees half of a file."""
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
