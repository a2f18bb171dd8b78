"""From which commit and with which versions does a run start?"""

import platform
from importlib import metadata
from pathlib import Path

OURS = ("runs/", ".ptw/")  # what ptw itself writes makes no work tree dirty
PACKAGES = ("ptw", "torch", "transformers", "ray", "safetensors", "numpy")


def commit_of(root: Path) -> tuple[str | None, bool | None]:
    """The workspace's commit, and whether files differ from it; None outside a repository."""
    try:
        import git
    except ImportError:  # GitPython finds no git program
        return None, None
    try:
        with git.Repo(root, search_parent_directories=True) as repository:
            commit = repository.head.commit.hexsha
            new = [name for name in repository.untracked_files if not name.startswith(OURS)]
            return commit, bool(new) or repository.is_dirty()
    except (git.InvalidGitRepositoryError, git.NoSuchPathError, git.GitCommandError, ValueError):
        return None, None  # no repository here, or one without a commit


def tracked(root: Path) -> list[str]:
    """Files that the workspace's repository tracks, below `root`; none outside a repository."""
    try:
        import git
    except ImportError:  # GitPython finds no git program
        return []
    try:
        with git.Repo(root, search_parent_directories=True) as repository:
            listed: str = git.Git(root).ls_files("-z", "--cached")
            return [name for name in listed.split("\0") if name] if repository else []
    except (git.InvalidGitRepositoryError, git.NoSuchPathError, git.GitCommandError):
        return []


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
