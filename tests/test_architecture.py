"""What may import what, how large a file may grow, and what the house does not do, held for every file."""

import ast
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tokenize import COMMENT

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each part of ptw may import of ptw. A new arrow is a design change, made here on purpose.
ARROWS = {
    "ptw/__init__.py": set(),
    "ptw/errors.py": set(),
    "ptw/__main__.py": {"cli"},
    "ptw/workspace": {"errors"},
    "ptw/files": {"errors"},
    "ptw/pages": {"errors"},
    "ptw/nn": {"errors"},
    "ptw/tokens": {"errors", "workspace", "files"},
    "ptw/ports": {"errors", "workspace", "nn"},
    "ptw/verify": {"errors", "pages", "workspace", "nn", "ports", "files", "tokens", "runs"},
    "ptw/data": {"errors", "workspace", "files", "tokens"},
    "ptw/runs": {"errors", "pages", "workspace", "tokens", "nn", "ports"},
    "ptw/evals": {"errors", "pages", "workspace", "files", "tokens", "nn", "ports", "data", "runs"},
    "ptw/track": {"errors", "runs"},
    "ptw/train": {
        "errors",
        "workspace",
        "files",
        "tokens",
        "nn",
        "ports",
        "data",
        "runs",
        "evals",
        "track",
        "vocab",
    },
    "ptw/rl": {"errors", "workspace", "files", "tokens", "nn", "ports", "data", "evals", "train"},
    "ptw/vocab": {"errors", "pages", "workspace", "files", "tokens", "ports", "data", "evals", "runs"},
    "ptw/serve": {"errors", "tokens"},
    "ptw/survey": {"errors", "pages", "workspace", "files", "tokens", "data", "train"},
    "ptw/agent": {"errors", "workspace", "ports", "verify", "runs"},
    "ptw/cli": {
        "errors",
        "workspace",
        "tokens",
        "ports",
        "verify",
        "data",
        "runs",
        "evals",
        "train",
        "survey",
        "vocab",
        "agent",
    },
}

# What a room may import beside these plain parts of the standard library.
PLAIN = {"__future__", "collections", "dataclasses", "functools", "itertools", "math", "typing"}
READS_TEXT = {"ast", "builtins", "re", "warnings"}  # a verifier may look at a port's text
MAY_IMPORT = {
    "models": {"torch", "ptw.errors", "ptw.nn", "ptw.ports.weights"},
    "recipes": {"torch", "ptw.train", "ptw.rl"},
    "rewards": {"json", "re", "ptw.rl.titles"},
    "verifiers": {"torch"},
}

# Who may import what is heavy, or what only one place should know.
HEAVY = {
    "bitsandbytes": ("ptw/ports/quantise.py",),
    "click": ("ptw/cli",),
    "fsspec": ("ptw/data", "ptw/files", "ptw/workspace"),
    "httpx": ("ptw/train/labels/endpoint.py",),
    "litellm": ("ptw/agent/llm.py",),
    "mlflow": ("ptw/track/mlflow.py",),
    "tensorboardX": ("ptw/track/tensorboard.py",),
    "wandb": ("ptw/track/wandb.py",),
    "git": ("ptw/agent", "ptw/verify", "ptw/workspace", "ptw/runs"),
    "peft": ("ptw/verify",),
    "ray": ("ptw/rl/engines.py", "ptw/train/launch.py", "ptw/train/connect.py", "ptw/train/jobs/cluster.py"),
    "vllm": ("ptw/rl/engine.py", "ptw/serve"),
    "transformers": ("ptw/agent", "ptw/ports", "ptw/rl/verl_engine.py", "ptw/tokens", "ptw/verify"),
    "verl": ("ptw/rl/verl_engine.py",),
}

# No file of these may import, even inside a function, what would slow `ptw --help` and `ptw check` down.
LIGHT = ("ptw/__init__.py", "ptw/__main__.py", "ptw/errors.py", "ptw/workspace")
SLOW_TO_IMPORT = {"pandas", "peft", "pyarrow", "ray", "tokenizers", "torch", "transformers"}

CODE = ("ptw", "models", "recipes", "rewards", "verifiers", "ci", "benchmarks")
ROOMS = tuple(MAY_IMPORT)
LINES = {"models": 500}
LINES_ELSEWHERE = 300
FUNCTION_LINES = 60


def tracked(pattern: str) -> list[Path]:
    """Files of the working tree, without what git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", pattern]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(path for path in (Path(name) for name in names) if (ROOT / path).is_file())


def under(folders: tuple[str, ...]) -> list[Path]:
    return [path for path in tracked("*.py") if path.as_posix().startswith(tuple(f"{f}/" for f in folders))]


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[path.as_posix() for path in paths])


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere below `node`, also inside functions and for types only."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = child.module or ""
            # `from ptw import errors` names a module too
            yield from ([f"{module}.{alias.name}" for alias in child.names] if module == "ptw" else [module])


def is_in(path: Path, place: str) -> bool:
    return path.as_posix() == place or path.as_posix().startswith(f"{place}/")


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@named(under(("ptw",)))
def test_arrows_run_one_way(path: Path) -> None:
    place = next((place for place in ARROWS if is_in(path, place)), None)
    assert place, f"{path} stands in no part of ptw that ARROWS names"
    own = place.removeprefix("ptw/")
    reached = {name.split(".")[1] for name in imports(tree(path)) if name.startswith("ptw.")} - {own}
    assert reached - {"__version__"} <= ARROWS[place]


def test_arrows_have_no_circle() -> None:
    parts = {place.removeprefix("ptw/").removesuffix(".py"): reached for place, reached in ARROWS.items()}
    while parts:
        free = {part for part, reached in parts.items() if not reached & set(parts)}
        assert free, f"a circle among {sorted(parts)}"
        parts = {part: reached for part, reached in parts.items() if part not in free}


@named(under(ROOMS))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    allowed = MAY_IMPORT[path.parts[0]]
    for name in imports(tree(path)):
        plain = name.split(".")[0] in (PLAIN | READS_TEXT if path.parts[0] == "verifiers" else PLAIN)
        assert plain or any(name == may or name.startswith(f"{may}.") for may in allowed), name


@named(under(("ptw",)))
def test_what_is_heavy_is_known_in_few_places(path: Path) -> None:
    reached = {name.split(".")[0] for name in imports(tree(path))}
    for name in reached & set(HEAVY):
        assert any(is_in(path, place) for place in HEAVY[name]), f"{path} imports {name}"
    if any(is_in(path, place) for place in LIGHT):
        assert not reached & SLOW_TO_IMPORT


@named(under(("ptw/cli",)))
def test_the_command_line_imports_nothing_heavy_before_it_is_needed(path: Path) -> None:
    top_level = ast.Module(body=[], type_ignores=[])
    top_level.body = [n for n in tree(path).body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert {name.split(".")[0] for name in imports(top_level)} <= {*sys.stdlib_module_names, "click", "ptw"}


@named(under(CODE))
def test_a_file_says_what_it_is_for_and_stays_small(path: Path) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    if source.strip():
        assert ast.get_docstring(tree(path)), f"{path} has no docstring"
    assert source.count("\n") <= LINES.get(path.parts[0], LINES_ELSEWHERE)


@named(under((*CODE, "tests")))
def test_functions_are_short_and_typed(path: Path) -> None:
    for function in functions(path):
        where = f"{path}:{function.lineno} {function.name}"
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert lines <= FUNCTION_LINES, f"{where}: {lines} lines"
        given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        untyped = [a.arg for a in given if a.annotation is None and a.arg not in ("self", "cls")]
        if not path.is_relative_to("tests"):
            assert function.returns is not None or function.name == "__init__", f"{where}: returns what?"
            assert not untyped, f"{where}: {untyped} have no type"


@named(under((*CODE, "tests")))
def test_nothing_is_left_to_do(path: Path) -> None:
    with (ROOT / path).open("rb") as file:
        comments = [token.string for token in tokenize.tokenize(file.readline) if token.type == COMMENT]
    assert not [comment for comment in comments if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", comment)]


def test_there_are_no_drawers_for_odds_and_ends() -> None:
    names = {"utils", "util", "common", "misc", "helpers"}
    assert not [path for path in tracked("*.py") if {path.stem, *path.parts} & names]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_not_packages(room: str) -> None:
    assert list((ROOT / room).glob("*.py")), f"{room}/ is empty"
    assert not (ROOT / room / "__init__.py").exists()


@named(tracked("*.toml"))
def test_every_toml_file_loads(path: Path) -> None:
    assert tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


@named(under(("models",)))
def test_a_port_defines_what_a_port_defines(path: Path) -> None:
    defined = {n.name for n in tree(path).body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    assert {"Config", "Model", "weights"} <= defined


@named(under(("recipes",)))
def test_a_recipe_defines_settings_and_train(path: Path) -> None:
    defined = {n.name for n in tree(path).body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    assert {"Settings", "train"} <= defined


@named(under(("verifiers",)))
def test_a_verifier_has_limits_and_measures(path: Path) -> None:
    body = tree(path).body
    assert "measure" in {n.name for n in body if isinstance(n, ast.FunctionDef)}
    limits = [n for n in body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "LIMITS"]
    assert limits
    assert ast.literal_eval(limits[0].value), "a verifier without a limit gates nothing"
