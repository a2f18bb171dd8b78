"""What does a new workspace hold? Everything is built aside, then renamed: a half-made one never stays."""

import os
import shutil
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptw.errors import PtwError
from ptw.workspace import ci
from ptw.workspace.schema import NAME_RULE, is_name, schema_text
from ptw.workspace.simulate import MEMBERS, SMALLEST, write_service

TEMPLATE = Path(__file__).with_name("template")
OUTER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
LARGEST_COMMIT = 20 * 2**20  # bytes of data; more is left out of git


def init(folder: Path, size: int = MEMBERS, seed: int = 0, ci_system: str | None = None) -> Path:
    """A workspace in this folder, which must be new or empty; PtwError leaves it untouched.

    With `ci_system` (github, gitlab) its pull requests go through the gate.
    """
    refuse(folder, size)
    folder = folder.absolute()
    try:
        with aside(folder) as built:
            fill(built, folder.name, size, seed)
            if ci_system is not None:
                ci.add(built, ci_system)
            commit(built)
            os.rename(built, folder)
    except OSError as error:
        raise PtwError(f"{folder}: cannot be made: {error.strerror or error}") from error
    return folder


def refuse(folder: Path, size: int) -> None:
    name = folder.absolute().name
    if not is_name(name) or folder.name in ("", ".."):
        raise PtwError(f"{str(folder)!r} does not end in a name for a workspace: {NAME_RULE}")
    if size < SMALLEST:
        raise PtwError(f"--size {size}: too few members to simulate; the least is {SMALLEST}")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise PtwError(f"{folder}: this is not a folder; name a new one")
    if folder.is_dir() and any(folder.iterdir()):
        raise PtwError(f"{folder}: the folder is not empty, and stays as it is; name a new one")
    if not folder.absolute().parent.is_dir():
        raise PtwError(f"{folder.absolute().parent}: there is no such folder to make {name} in")


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A folder beside the one to be made, gone afterwards unless it was renamed."""
    built = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    mask = os.umask(0)
    os.umask(mask)
    built.chmod(0o777 & ~mask)  # mkdtemp's folders are for their owner alone
    try:
        yield built
    finally:
        shutil.rmtree(built, ignore_errors=True)


def fill(built: Path, name: str, size: int, seed: int) -> None:
    for file in sorted(file for file in TEMPLATE.rglob("*") if file.is_file()):
        relative = file.relative_to(TEMPLATE)
        target = built / (".gitignore" if relative.name == "gitignore" else relative)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = string.Template(file.read_text(encoding="utf-8")).substitute(name=name)
        target.write_text(text, encoding="utf-8")
    (built / ".ptw").mkdir()
    (built / ".ptw" / "schema.json").write_text(schema_text(), encoding="utf-8")
    (built / "data").mkdir()
    write_service(built / "data", size, seed)
    if sum(file.stat().st_size for file in (built / "data").iterdir()) > LARGEST_COMMIT:
        with (built / ".gitignore").open("a", encoding="utf-8") as stream:
            stream.write("# too large for git\ndata/\n")


def commit(built: Path) -> None:
    """A git repository with one commit of all that .gitignore lets in."""
    try:
        import git
    except ImportError as error:  # GitPython looks for the program when it is imported
        raise PtwError("a workspace is a git repository, and there is no git: install it") from error

    with no_outer_repository():
        try:
            repository = git.Repo.init(built, initial_branch="main")
            repository.git.add("--all")
            repository.index.commit("Begin the workspace", skip_hooks=True)
            repository.close()
        except git.GitCommandError as error:
            raise PtwError(f"git cannot make the repository: {error.stderr.strip()}") from error


@contextmanager
def no_outer_repository() -> Iterator[None]:
    """Without git's variables: in a hook they name the repository that runs it, and git would obey."""
    taken = {key: os.environ.pop(key) for key in OUTER if key in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)
