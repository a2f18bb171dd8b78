"""Which files does a run need on the cluster? What git tracks, and what its plan names; never a secret."""

import hashlib
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import ptw
from ptw.errors import PtwError
from ptw.files.find import find
from ptw.runs import origin
from ptw.tokens import semantic
from ptw.train.plan import Plan
from ptw.workspace import rooms

MOST_BYTES = 200 << 20  # Ray keeps it in the memory of the cluster's head
LARGEST_NAMED = 5
OURS = ("runs", ".ptw", ".git", ".venv")
# ignore files mean the repository; Ray would heed them again, and leave out data that the plan names
UNWANTED = (".gitignore", ".rayignore", "__pycache__", "*.pyc")
SECRETS = (
    ".env",
    ".env.*",
    "*.pem",
    "*.key",
    "id_rsa*",
    "id_ed25519*",
    ".netrc",
    "*credentials*",
    ".aws",
    ".ssh",
)


def pack(plan: Plan, folder: Path) -> list[str]:
    """Copy them; the names of secrets that were left out. PtwError names the largest where it is too much."""
    names = {*_tracked(plan.root), *_needed(plan)}
    secret = sorted(name for name in names if _is(name, SECRETS))
    wanted = sorted(name for name in names if not _is(name, (*OURS, *UNWANTED, *SECRETS)))
    _demand_small({name: (plan.root / name).stat().st_size for name in wanted})
    for name in wanted:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(plan.root / name, target)
    recipe = folder / "recipes" / plan.file.name  # also a stock one: the cluster's may be another
    recipe.parent.mkdir(exist_ok=True)
    shutil.copyfile(plan.file, recipe)
    return secret


def code_digest() -> str:
    """Of ptw itself: two clones may call themselves by one version."""
    package = Path(ptw.__file__).parent
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def _tracked(root: Path) -> list[str]:
    return [name for name in origin.tracked(root) if (root / name).is_file()]


def _needed(plan: Plan) -> Iterator[str]:
    """Also where git ignores it: data and checkpoints often lie so."""
    entries = [
        (f"tokenizers.{plan.tokenizer.name}", plan.tokenizer.hf),
        *((f"models.{model.name}", model.hf) for model in plan.models),
    ]
    for key, folder in entries:
        if folder is not None and (plan.root / folder).is_dir():
            yield from (_inside(plan.root, key, path) for path in _files_below(plan.root / folder))
    for file in (plan.tokenizer.items, plan.tokenizer.chat_template):
        if file is not None:
            yield _inside(plan.root, f"tokenizers.{plan.tokenizer.name}", plan.root / file)
    for name, entry in plan.semantic_ids.items():
        built = semantic.version_folder(plan.root, name, entry.version or 0)
        texts = semantic.read_facts(built)["files"]  # new rows begin in the texts of items
        for file in (built / semantic.FACTS, built / semantic.ITEMS, *(plan.root / text for text in texts)):
            yield _inside(plan.root, f"semantic_ids.{name}", file)
    parts = [share.dataset for dataset in plan.datasets.values() for share in dataset.parts]
    for dataset in parts:
        local = tuple(source for source in dataset.source if "://" not in source)
        for found in find(plan.root, local) if local else ():
            yield _inside(plan.root, f"datasets.{dataset.name}", Path(found.path))
    for key in rooms.files_named(plan.file):
        named = plan.root / str(plan.settings.get(key))
        if named.is_file():  # the run says which is not
            yield _inside(plan.root, f"settings.{key}", named)
    for room in ("models", "rewards"):
        yield from (path.relative_to(plan.root).as_posix() for path in (plan.root / room).glob("*.py"))


def _files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _inside(root: Path, key: str, path: Path) -> str:
    path = Path(*path.parts) if ".." not in path.parts else path.resolve()
    if not path.is_relative_to(root):
        raise PtwError(
            f"{key}: {path} lies outside the workspace, and would not reach the cluster; put it into the "
            "workspace, or name a URL"
        )
    return path.relative_to(root).as_posix()


def _is(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(part, pattern) for part in Path(name).parts for pattern in patterns)


def _demand_small(sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if total <= MOST_BYTES:
        return
    largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST_NAMED]
    listed = "\n  ".join(f"{sizes[name] >> 20:,} MiB  {name}" for name in largest)
    raise PtwError(
        f"the files to send to the cluster come to {total >> 20:,} MiB, and {MOST_BYTES >> 20} MiB is the "
        f"most; the largest:\n  {listed}\nput data where the cluster reads it (a URL), name models by their "
        "Hub id, or let git ignore what the run does not need"
    )
