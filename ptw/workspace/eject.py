"""How does a user change a file that ptw brings? By a copy in the workspace's own room, which wins."""

import os
from pathlib import Path

from ptw.errors import PtwError
from ptw.workspace import rooms
from ptw.workspace.problem import hint_of

HERE = ("models", "recipes")  # a workspace adds verifiers, it never replaces one


def eject(root: Path, name: str) -> Path:
    """Copy a stock file, named `recipes/sft`, into the workspace; PtwError when it has one of that name."""
    room, _, stem = name.removesuffix(".py").partition("/")
    if room == "verifiers":
        raise PtwError(f"{name}: ptw's verifiers cannot be changed; add one of another name to verifiers/")
    if room not in HERE or not stem:
        raise PtwError(
            f"{name!r}: name a room and a file, such as recipes/sft; the rooms are {', '.join(HERE)}"
        )
    stock = rooms.files(None, room)
    if stem not in stock:
        raise PtwError(f"{name}: ptw brings no such file; {hint_of(stem, list(stock), room)}")
    target = root / room / f"{stem}.py"
    if rooms.stock(room) == target.parent.resolve():
        raise PtwError(f"{name}: it is in this workspace already; edit {target}")
    return copied(stock[stem], target)


def copied(source: Path, target: Path) -> Path:
    """The whole file or none, and never over one that is there."""
    target.parent.mkdir(exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        aside.write_bytes(source.read_bytes())
        os.link(aside, target)  # unlike a rename, it refuses a file that is there
    except FileExistsError as error:
        raise PtwError(f"{target}: there is a file already; edit it, or remove it first") from error
    except OSError as error:
        raise PtwError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
    return target
