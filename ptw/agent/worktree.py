"""Where is a port written? In a fresh worktree of the user's repository, which stays as it is."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.workspace import rooms
from ptw.workspace.declare import with_model
from ptw.workspace.document import FILE

FOLDER = Path(".ptw") / "worktrees"
BRANCH = "ptw/add-"


class Worktree:
    """`root` is the workspace in it, of which only models/<model_type>.py may come to differ."""

    def __init__(self, root: Path, name: str, commit: str | None = None) -> None:
        import git

        try:
            self.repository = git.Repo(root, search_parent_directories=True)
            self.commit = commit or self.repository.head.commit.hexsha
        except (git.InvalidGitRepositoryError, git.NoSuchPathError, ValueError) as error:
            raise PtwError(
                f"{root}: a port is committed on a branch, and this is no git repository with a commit: "
                "git init && git add --all && git commit"
            ) from error
        self.top = Path(str(self.repository.working_tree_dir)).resolve()
        self.inner = root.resolve().relative_to(self.top)
        self.folder = root.resolve() / FOLDER / name
        self.root = self.folder / self.inner

    def open(self) -> None:
        """Made anew from the commit; what an earlier try left there is gone."""
        self.close()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.repository.git.worktree("add", "--detach", str(self.folder), self.commit)
        if not (self.root / FILE).exists():
            self.close()
            raise PtwError(
                f"{FILE} is not committed: a port goes on a branch of what is; git add, git commit"
            )

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.repository.git.worktree("prune")

    def strangers(self, allowed: str) -> list[str]:
        """Files that differ from the commit, other than the one that may."""
        import git

        with git.Repo(self.folder) as opened:
            changed = [line[3:].strip('"') for line in opened.git.status("--porcelain", "-uall").splitlines()]
        return [name for name in changed if name != str(self.inner / allowed)]

    def commit_port(
        self, name: str, table: Mapping[str, Any], file: str, text: str, message: str
    ) -> tuple[str, str]:
        """One commit on a branch of its own: the port and its table. Gives the branch and the commit."""
        import git

        self.open()  # whatever else happened there is not in it
        stock = rooms.files(None, "models").get(Path(file).stem)
        if stock is None or stock.read_text(encoding="utf-8") != text:  # what ptw brings is there already
            (self.root / file).parent.mkdir(exist_ok=True)
            (self.root / file).write_text(text, encoding="utf-8")
        manifest = self.root / FILE
        before = manifest.read_bytes().decode("utf-8")
        after = with_model(before, name, table)
        tomllib.loads(after)
        manifest.write_bytes(after.encode("utf-8"))
        with git.Repo(self.folder) as opened:
            opened.index.add([str(path) for path in (self.root / file, manifest) if path.exists()])
            made = opened.index.commit(message, skip_hooks=True)
        branch = self._free(name)
        self.repository.create_head(branch, made.hexsha)
        return branch, str(made.hexsha)

    def _free(self, name: str) -> str:
        taken = {head.name for head in self.repository.heads}
        names = [f"{BRANCH}{name}", *(f"{BRANCH}{name}-{number}" for number in range(2, 1000))]
        return next(one for one in names if one not in taken)
