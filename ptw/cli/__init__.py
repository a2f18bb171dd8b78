"""Which commands does a user have? Each parses, calls one function, and prints.

Data goes to stdout, everything else to stderr. Exit codes: 0 passed, 1 failed or the user can mend it,
2 usage, 3 a bug of ptw's own, 130 interrupted. What is heavy is imported inside the commands that need it.
"""

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

import click

from ptw import __version__
from ptw.cli import cluster as cluster
from ptw.cli.asking import evaluate, generate
from ptw.cli.looking import data
from ptw.cli.making import check, eject, init, schema
from ptw.cli.onboarding import add_model
from ptw.cli.recommending import recommend
from ptw.cli.speaking import told
from ptw.cli.training import export, runs, train
from ptw.cli.verifying import verify
from ptw.cli.vocabulary import vocab
from ptw.errors import PtwError

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


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ptw")
def cli() -> None:
    """Post-train language models on your own data. A workspace.toml says all; start with `ptw init NAME`."""


commands = (
    *(init, check, schema, add_model, verify, data, vocab, train, runs),
    *(export, generate, recommend, evaluate, eject),
)
for command in commands:
    cli.add_command(command)
