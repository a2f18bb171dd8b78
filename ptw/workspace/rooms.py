"""Which files stand in a room, and what do they hold? Rooms are loaded by path, never imported by name."""

import ast
import hashlib
import importlib.util
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import ptw
from ptw.errors import PtwError

ROOMS = ("models", "recipes", "rewards", "verifiers")
WITHOUT_PORT = "hf"  # `port = "hf"`: Hugging Face's own class although there is a port

TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
LISTS: dict[str, type] = {"list[str]": str, "list[int]": int}
WORDS = {
    "int": "an integer",
    "float": "a finite number",
    "str": "a string",
    "bool": "true or false",
    "list[str]": "a list of one or more strings",
    "list[int]": "a list of one or more integers",
}
BOOLEANS = {"true": True, "false": False}

loaded: dict[Path, tuple[tuple[int, int], ModuleType]] = {}


@dataclass(frozen=True)
class SettingField:
    type: str  # as it is written, e.g. "int | None"
    default: object
    required: bool
    types: tuple[str, ...]  # of int, float, str, bool, list[str], list[int]
    choices: tuple[object, ...]  # of a Literal
    optional: bool  # may be None, which TOML says by leaving the key out

    def fault(self, value: object) -> str | None:
        """What the value should be, if it isn't; None when it is fine."""
        if value is None and self.optional:
            return None
        if any(value == choice and type(value) is type(choice) for choice in self.choices):
            return None
        if any(fits(value, name) for name in self.types):
            return None
        words = [WORDS[name] for name in self.types] + [repr(choice) for choice in self.choices]
        return "it must be " + " or ".join(words)

    def parse(self, text: str) -> object:
        """The value that `--set key=text` means; ValueError says what it must be."""
        candidates: list[object] = [None] if self.optional and text == "none" else []
        candidates += [choice for choice in self.choices if str(choice) == text]
        candidates += [BOOLEANS[text]] if text in BOOLEANS else []
        for convert in (int, float, integers):
            try:
                candidates.append(convert(text))
            except ValueError:
                continue
        for value in [*candidates, text, text.split(",")]:
            if self.fault(value) is None:
                return value
        raise ValueError(self.fault(text))


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def stock(room: str) -> Path:
    """The room that ptw brings: in a wheel beside the package's modules, in a clone beside the package."""
    package = Path(ptw.__file__).resolve().parent
    in_wheel = package / "_stock" / room
    return in_wheel if in_wheel.is_dir() else package.parent / room


def files(root: Path | None, room: str) -> dict[str, Path]:
    """Name -> file. A workspace's own file wins; of verifiers the stock one does: none may be loosened."""
    own = python_files(root / room) if root is not None else {}
    ours = python_files(stock(room))
    merged = own | ours if room == "verifiers" else ours | own
    return dict(sorted(merged.items()))


def formats(path: Path) -> tuple[str, ...]:
    """The formats of datasets that a recipe takes, of its FORMATS; without them none is refused."""
    return words_of(path, "FORMATS")


def roles(path: Path) -> tuple[str, ...]:
    """The models that a recipe asks for beside the one that learns, of its ROLES."""
    return words_of(path, "ROLES")


def optional_roles(path: Path) -> tuple[str, ...]:
    """The models that it takes beside these where they are given, of its OPTIONAL_ROLES."""
    return words_of(path, "OPTIONAL_ROLES")


def served(path: Path) -> tuple[str, ...]:
    """Which of its models ("model", or a role) may be behind an endpoint, of its SERVED; without it none."""
    return words_of(path, "SERVED")


def files_named(path: Path) -> tuple[str, ...]:
    """Which of its settings name a file of the workspace, of its FILES."""
    return words_of(path, "FILES")


def rewards_named(path: Path) -> dict[str, tuple[str, ...]]:
    """Which of its settings name files of rewards/, and what these must define, of its REWARDS."""
    node = assigned(path, "REWARDS")
    return {} if node is None else dict(literal(path, node))


def words_of(path: Path, name: str) -> tuple[str, ...]:
    """What the file assigns to this name, without importing it."""
    node = assigned(path, name)
    return () if node is None else tuple(literal(path, node, tuple_of=True))


def assigned(path: Path, name: str) -> ast.expr | None:
    for node in parsed(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    return None


def may_define(path: Path, name: str) -> bool:
    """Whether the file defines or imports this name, as far as one sees without running it."""
    for node in parsed(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Import | ast.ImportFrom):
            if {"*", name} & {alias.asname or alias.name for alias in node.names}:
                return True
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.If | ast.Try):
            stored = (one for one in ast.walk(node) if isinstance(one, ast.Name | ast.FunctionDef))
            if name in (one.id if isinstance(one, ast.Name) else one.name for one in stored):
                return True
    return False


def settings_fields(path: Path, name: str = "Settings") -> dict[str, SettingField]:
    """The fields of the file's Settings, without importing it; PtwError when it can't be read so."""
    tree = parsed(path)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    if not classes:
        raise PtwError(f"{path}: has no {name}; add a frozen dataclass of that name, even an empty one")
    inherited: dict[str, SettingField] = {}
    for base in reversed(classes[0].bases):
        inherited |= settings_fields(*where_is(path, tree, base))
    fields = [node for node in classes[0].body if isinstance(node, ast.AnnAssign)]
    own = {node.target.id: field_of(path, node) for node in fields if isinstance(node.target, ast.Name)}
    return own | {name: field for name, field in inherited.items() if name not in own}


def parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise PtwError(f"{path}{line}: not Python: {error}") from error
    except OSError as error:
        raise PtwError(f"{path}: cannot be read: {error.strerror}") from error


def where_is(path: Path, tree: ast.Module, base: ast.expr) -> tuple[Path, str]:
    """The file and name of a class that Settings takes fields from: it is in the file, or is ptw's."""
    name = ast.unparse(base)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return path, name
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ptw."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    parts = str(node.module).split(".")[1:]
                    return Path(ptw.__file__).parent.joinpath(*parts).with_suffix(".py"), alias.name
    hint = "settings are read without running the file: write `from ptw.<module> import` for it"
    raise PtwError(f"{path}:{base.lineno}: Settings takes fields from {name}, which is not found: {hint}")


def python_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {file.stem: file for file in folder.glob("*.py") if file.is_file() and file.name[0] not in "._"}


def load(path: Path) -> ModuleType:
    """The file as a module under a private name; read again when the file has changed."""
    path = path.resolve()
    try:
        status = path.stat()
        source = path.read_bytes()
    except OSError as error:
        raise PtwError(f"{path}: cannot be read: {error.strerror}") from error
    stamp = (status.st_mtime_ns, status.st_size)
    if path in loaded and loaded[path][0] == stamp:
        return loaded[path][1]
    module = executed(path, source)
    loaded[path] = (stamp, module)
    return module


def executed(path: Path, source: bytes) -> ModuleType:
    name = f"_ptw_{path.parent.name}_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise PtwError(f"{path}: not a Python file; a file of a room ends in .py")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        # not the spec's loader: its .pyc cache takes a file changed within a second for the old one
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        place = f"{path}{line_in(path, error)}"
        raise PtwError(f"{place}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def line_in(path: Path, error: Exception) -> str:
    """`:12`, the last line of this file that the error went through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f":{error.lineno}"
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f":{line}"


def fits(value: object, name: str) -> bool:
    if name in LISTS:
        return (
            isinstance(value, list)
            and bool(value)
            and all(type(part) is LISTS[name] and part != "" for part in value)
        )
    if isinstance(value, bool):
        return name == "bool"
    if name == "float" and isinstance(value, int):
        return abs(value) < 2**63
    if isinstance(value, float):
        return name == "float" and math.isfinite(value)
    return isinstance(value, TYPES[name])


def field_of(path: Path, node: ast.AnnAssign) -> SettingField:
    written = ast.unparse(node.annotation)
    types: list[str] = []
    choices: list[object] = []
    optional = False
    for part in alternatives(node.annotation):
        if isinstance(part, ast.Name) and part.id in TYPES:
            types.append(part.id)
        elif ast.unparse(part) in LISTS:
            types.append(ast.unparse(part))
        elif isinstance(part, ast.Constant) and part.value is None:
            optional = True
        elif isinstance(part, ast.Subscript) and ast.unparse(part.value) in ("Literal", "typing.Literal"):
            choices += literal(path, part.slice, tuple_of=True)
        else:
            hint = (
                "a setting is int, float, str, bool, list[str], list[int], a Literal, or one of these | None"
            )
            raise PtwError(f"{path}:{node.lineno}: Settings.{ast.unparse(node.target)}: {written}: {hint}")
    required = node.value is None
    default = None if node.value is None else literal(path, node.value)
    return SettingField(written, default, required, tuple(types), tuple(choices), optional)


def alternatives(node: ast.expr) -> list[ast.expr]:
    """The parts of X | Y | None."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return alternatives(node.left) + alternatives(node.right)
    return [node]


def literal(path: Path, node: ast.expr, tuple_of: bool = False) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError as error:
        hint = "write the value itself: settings are read without running the file"
        raise PtwError(f"{path}:{node.lineno}: {ast.unparse(node)}: {hint}") from error
    return value if not tuple_of or isinstance(value, tuple) else (value,)
