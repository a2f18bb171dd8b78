"""How does a CI system call the gate? The files that ptw's own repository uses, put into a workspace."""

from pathlib import Path

from ptw.errors import PtwError
from ptw.workspace.rooms import stock

GATE = {"gate.sh": "ci/gate.sh", "summary.py": "ci/summary.py"}
FILES = {
    "github": GATE | {"github.yml": ".github/workflows/gate.yml"},
    "gitlab": GATE | {"gitlab.yml": ".gitlab-ci.yml"},
}


def add(root: Path, system: str) -> list[Path]:
    """Write them below the root; PtwError, and nothing is written, where a file says something else."""
    wanted = {root / place: stock("ci") / name for name, place in FILES[system].items()}
    for file, source in wanted.items():
        if file.is_symlink() or (file.exists() and file.read_bytes() != source.read_bytes()):
            raise PtwError(f"{file}: it is there already and says something else; move it away first")
    for file, source in wanted.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source.read_bytes())
        file.chmod(file.stat().st_mode | (0o111 if file.suffix == ".sh" else 0))
    return list(wanted)
