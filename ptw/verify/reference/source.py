"""Which of transformers' source does a family run on? What its causal model reaches, and nothing else.

Imports transformers.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAMILIES = "transformers.models."
CHOOSES = "transformers.models.auto"  # among all families, and is none
LONGEST_DOCSTRING = 300  # characters; what argument lists repeat is left out
UNREAD = ("_init_weights",)  # methods that no forward pass runs
Definition = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Module:
    """A file's top-level definitions by name, and where it takes other families' from."""

    name: str
    file: Path
    text: str
    definitions: Mapping[str, Definition]
    imported: Mapping[str, tuple[str, str]]  # name -> module, name there


def modeling(model_type: str) -> dict[str, str]:
    """File name -> text of what the causal model of this family reaches, the family's own file first."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    return reached(MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]])


def configuration(model_type: str) -> dict[str, str]:
    """The same of its config class."""
    from transformers import CONFIG_MAPPING

    return reached(CONFIG_MAPPING[model_type])


def reached(cls: Any) -> dict[str, str]:
    """By file: the definitions that this class needs, of its own family or of others, in order."""
    needed: dict[str, set[str]] = {}
    modules: dict[str, Module] = {}
    waiting = [(cls.__module__, cls.__name__)]
    while waiting:
        module_name, name = waiting.pop()
        module = modules.setdefault(module_name, _module(module_name))
        if name in module.definitions:
            if name not in needed.setdefault(module_name, set()):
                needed[module_name].add(name)
                waiting += [(module_name, used) for used in _used(module.definitions[name])]
        elif name in module.imported:
            waiting.append(module.imported[name])
    return {modules[name].file.name: _text(modules[name], names) for name, names in needed.items()}


def _module(name: str) -> Module:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin)
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    return Module(name, file, text, dict(_definitions(tree)), dict(_imports(tree, spec.parent or "")))


def _definitions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            source = importlib.util.resolve_name(f"{dots}{node.module or ''}", package)
            if source.startswith(FAMILIES) and not source.startswith(CHOOSES):
                yield from ((alias.asname or alias.name, (source, alias.name)) for alias in node.names)


def _used(node: Definition) -> set[str]:
    body = _without_unread(node)
    return {part.id for part in ast.walk(body) if isinstance(part, ast.Name)}


def _without_unread(node: Definition) -> ast.AST:
    if not isinstance(node, ast.ClassDef):
        return node
    kept = [one for one in node.body if not (isinstance(one, ast.FunctionDef) and one.name in UNREAD)]
    return ast.Module(body=[*kept, *[ast.Expr(base) for base in node.bases]], type_ignores=[])


def _text(module: Module, names: set[str]) -> str:
    lines = module.text.splitlines()
    parts = [_lines(lines, node) for name, node in module.definitions.items() if name in names]
    return "\n\n\n".join(parts) + "\n"


def _lines(lines: list[str], node: Definition) -> str:
    """The definition as it is written, with its comments, without long docstrings and unread methods."""
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    dropped: set[int] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef) and part.name in UNREAD:
            start = min([part.lineno, *(one.lineno for one in part.decorator_list)])
            dropped |= set(range(start, (part.end_lineno or start) + 1))
        if not isinstance(part, ast.ClassDef | ast.FunctionDef) or len(part.body) == 1:
            continue
        if len(ast.get_docstring(part) or "") > LONGEST_DOCSTRING:
            docstring = part.body[0]
            dropped |= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    kept = [lines[at - 1] for at in range(first, (node.end_lineno or first) + 1) if at not in dropped]
    return inspect.cleandoc("\n".join(kept)) if not kept[0][:1].strip() else "\n".join(kept)
