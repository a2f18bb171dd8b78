"""What does a change touch? The ports to verify for it, and whether it changes what judges them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ptw.errors import PtwError
from ptw.verify import closure
from ptw.verify.reports.report import Change, Note
from ptw.workspace import rooms

GATE = Path(__file__).parent
# what a version is pinned in: another version of the reference is another reference
PINS = ("constraints.txt", "pyproject.toml", "requirements.txt", "uv.lock", "poetry.lock")
JUDGES = ("verifiers/", "ci/", ".ci/", ".github/", ".gitlab-ci.yml", ".ptw/", "ptw/verify/")
SAYS = "this change touches the gate itself"


def since(
    root: Path,
    reference: str,
    ports: Mapping[str, Path],
    tokenizers: Mapping[str, Sequence[Path]] = MappingProxyType({}),
) -> Change:
    """What the working tree changed since it left `reference`, committed or not; PtwError if git can't say.

    Of `ports` those stand in the answer whose file, or anything that they or the gate depend on, changed; of
    `tokenizers` those of whose files one did, or the gate.
    """
    import git  # slow to import

    try:
        with git.Repo(root, search_parent_directories=True) as repository:
            base = _base(repository, reference)
            tree = Path(str(repository.working_tree_dir))
            names = repository.git.diff("--name-only", "--no-renames", "-z", base.hexsha).split("\0")
            names += repository.git.ls_files("--others", "--exclude-standard", "-z").split("\0")
            paths = {tree / name: name for name in names if name}
            before = {path: _text_at(base, paths[path]) for path in paths if path.parent.name == "verifiers"}
    except (git.InvalidGitRepositoryError, git.NoSuchPathError) as error:
        raise PtwError(f"{root}: --changed-since needs a git repository") from error
    except git.GitCommandError as error:
        raise PtwError(f"git can't say what changed since {reference!r}: {error.stderr.strip()}") from error
    inside = {_inside(path, root): path for path in paths}
    stock = rooms.stock("verifiers")
    return Change(
        since=reference,
        commit=base.hexsha,
        ports=_ports(ports, root, set(paths)),
        tokenizers=_tokenizers(tokenizers, root, set(paths)),
        recipes=tuple(_of_room("recipes", inside)),
        verifiers=tuple(_of_room("verifiers", inside)),
        gate=tuple(_judges(inside)),
        loosened=tuple(
            note
            for name, path in inside.items()
            if path in before and name.startswith("verifiers/")
            for note in _looser(name, before[path], path, stock)
        ),
    )


def _base(repository: Any, reference: str) -> Any:
    """The commit at which the working tree's branch left `reference`."""
    import git

    try:
        commit = repository.commit(reference)
        found = repository.merge_base(commit, repository.head.commit)
    except (git.BadName, git.BadObject, ValueError) as error:
        hint = "fetch it first; a shallow clone has no history to compare with"
        raise PtwError(f"--changed-since {reference!r}: git knows no such commit; {hint}") from error
    if not found:
        raise PtwError(
            f"--changed-since {reference!r}: it shares no commit with this branch; fetch the whole history"
        )
    return found[0]


def _text_at(commit: Any, name: str) -> str | None:
    try:
        return str((commit.tree / name).data_stream.read().decode(errors="replace"))
    except KeyError:
        return None


def _gate_changed(root: Path, changed: set[Path]) -> bool:
    """Or the versions that it runs with."""
    resolved = {path.resolve() for path in changed}
    verifiers = rooms.files(root, "verifiers").values()
    gate = {*closure.closure([*GATE.rglob("*.py"), *verifiers])}
    if gate & resolved or any(path.parent in (root, *root.parents) and path.name in PINS for path in changed):
        return True
    # or one was removed
    return any({"verifiers", "verify"} & set(path.parts[:-1]) and path.suffix == ".py" for path in changed)


def _tokenizers(tokenizers: Mapping[str, Sequence[Path]], root: Path, changed: set[Path]) -> tuple[str, ...]:
    """All of them where the gate changed."""
    if tokenizers and _gate_changed(root, changed):
        return tuple(tokenizers)
    resolved = [path.resolve() for path in changed]
    touched = {place for path in resolved for place in (path, *path.parents)}
    return tuple(
        name for name, places in tokenizers.items() if any(place.resolve() in touched for place in places)
    )


def _ports(ports: Mapping[str, Path], root: Path, changed: set[Path]) -> tuple[str, ...]:
    """All of them where the gate changed."""
    if _gate_changed(root, changed):
        return tuple(ports)
    resolved = {path.resolve() for path in changed}
    return tuple(
        name
        for name, file in ports.items()
        if {*closure.closure([file])} & resolved or root / "models" / file.name in changed
    )


def _of_room(room: str, inside: Mapping[str, Path]) -> Iterator[str]:
    for name, path in sorted(inside.items()):
        if name.startswith(f"{room}/") and path.suffix == ".py":
            yield path.stem if path.exists() else f"{path.stem} (removed)"


def _judges(inside: Mapping[str, Path]) -> Iterator[Note]:
    for name, path in sorted(inside.items()):
        if name.startswith(JUDGES):
            done = "changed" if path.exists() else "removed"
            yield Note("warning", name, 1, f"{SAYS}: {name} is {done}", "the gate is touched")
        elif name in PINS:
            yield Note(
                "warning", name, 1, f"{SAYS}: {name} may change what it runs with", "the gate is touched"
            )


def _looser(name: str, before: str | None, path: Path, stock: Path) -> Iterator[Note]:
    """Limits that were raised or taken away, and levels that a verifier no longer runs at."""
    title = "a limit is loosened"
    after = path.read_text(errors="replace") if path.exists() else None
    if path.parent.resolve() != stock.resolve() and (stock / path.name).is_file():
        text = f"{name} has no effect: no file of a workspace replaces or loosens a verifier of ptw's own"
        yield Note("warning", name, 1, text, "without effect")
        return
    if before is None or path.suffix != ".py":
        return
    if after is None:
        yield Note("warning", name, 1, f"this change loosens the gate: {name} is removed", title)
        return
    for constant, empty in (("LIMITS", {}), ("LEVELS", ("practice", "acceptance"))):
        old, _ = _constant(before, constant, empty)
        new, lines = _constant(after, constant, empty)
        if new is None or old is None:
            if ast.dump(_tree(before)) != ast.dump(_tree(after)):
                text = (
                    f"this change may loosen the gate: {constant} of {name} can't be read without running it"
                )
                yield Note("warning", name, lines.get("", 1), text, title)
        elif constant == "LEVELS":
            for level in sorted(set(old) - set(new)):
                text = f"this change loosens the gate: {name} no longer runs at {level}"
                yield Note("warning", name, lines.get("", 1), text, title)
        else:
            yield from _looser_limits(name, old, new, lines)


def _looser_limits(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], lines: Mapping[str, int]
) -> Iterator[Note]:
    for metric, limit in old.items():
        line = lines.get(metric, lines.get("", 1))
        if metric not in new:
            text = f"this change loosens the gate: {name} no longer limits {metric}"
        elif not new[metric] <= limit:
            text = f"this change loosens the gate: {name} takes {metric} <= {new[metric]:g}, before {limit:g}"
        else:
            continue
        yield Note("warning", name, line, text, "a limit is loosened")


def _constant(text: str, name: str, empty: Any) -> tuple[Any, dict[str, int]]:
    """A module's constant as it is written, None where it is no literal; the line of it and of its keys."""
    for node in _tree(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = getattr(node, "value", None)
            lines = {"": node.lineno}
            if isinstance(value, ast.Dict):
                keys = [key for key in value.keys if isinstance(key, ast.Constant)]
                lines |= {str(key.value): key.lineno for key in keys}
            try:
                return ast.literal_eval(value or ""), lines
            except (ValueError, TypeError, SyntaxError):
                return None, lines
    return empty, {}


def _tree(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def _inside(path: Path, root: Path) -> str:
    """As the workspace names it; of what lies outside it, its place in the machine."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
