"""What is there for a port to use? Signatures and docstrings, read off the code; nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import ptw

PACKAGE = Path(ptw.__file__).parent
LONGEST_VALUE = 1800
UNUSED = ("decode",)  # modules of ptw.nn that use ports, and are used by none


def page(file: Path, module: str) -> str:
    """One module: what it is for, its constants, functions and classes, without their bodies."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    said = ast.get_docstring(tree) or ""
    return "\n".join([f"## {module}", f'"""{said}"""', *_statements(tree.body, "")]) + "\n"


def port_api() -> str:
    """All that a port may import from ptw."""
    modules = sorted(
        file.stem for file in (PACKAGE / "nn").glob("*.py") if _public(file.stem) and file.stem not in UNUSED
    )
    pages = [page(PACKAGE / "nn" / f"{name}.py", f"ptw.nn.{name}") for name in modules]
    return "\n".join([*pages, page(PACKAGE / "ports" / "weights.py", "ptw.ports.weights")])


def _statements(body: list[ast.stmt], indent: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and _public(node.name):
            yield from _function(node, indent)
        elif isinstance(node, ast.ClassDef) and _public(node.name):
            yield from _class(node, indent)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and (
            _is_field(node) if indent else _is_constant(node)
        ):
            text = ast.unparse(node)
            yield indent + (text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}...")


def _function(node: ast.FunctionDef, indent: str) -> Iterator[str]:
    decorators = [f"{indent}@{ast.unparse(one)}" for one in node.decorator_list]
    yield from (line for line in decorators if not line.endswith((".setter", "override")))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    yield f"{indent}def {node.name}({ast.unparse(node.args)}){returns}:"
    yield f"{indent}    {_docstring(node, indent + '    ')}"


def _class(node: ast.ClassDef, indent: str) -> Iterator[str]:
    yield from (f"{indent}@{ast.unparse(one)}" for one in node.decorator_list)
    bases = ", ".join(map(ast.unparse, node.bases))
    yield f"{indent}class {node.name}({bases}):" if bases else f"{indent}class {node.name}:"
    yield f"{indent}    {_docstring(node, indent + '    ')}"
    # of an operator it is enough to know what it is made of
    kept = [
        one
        for one in node.body
        if not (isinstance(one, ast.FunctionDef) and one.name in ("from_hf", "to_hf"))
    ]
    made = [one for one in node.body if isinstance(one, ast.FunctionDef) and _is_classmethod(one)]
    shown = [one for one in kept if one not in made and not _is_names(one)]
    yield from _statements([*made, *shown], indent + "    ")


def _is_classmethod(node: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "classmethod" for one in node.decorator_list)


def _is_names(node: ast.stmt) -> bool:
    """The names of an operator's tensors, which every operator has."""
    return isinstance(node, ast.FunctionDef) and node.name in ("theirs", "ours")


def _docstring(node: ast.FunctionDef | ast.ClassDef, indent: str) -> str:
    said = ast.get_docstring(node)
    return f'"""{said}"""'.replace("\n", f"\n{indent}").replace(f"\n{indent}\n", "\n\n") if said else "..."


def _public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")


def _is_field(node: ast.Assign | ast.AnnAssign) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and _public(node.target.id)


def _is_constant(node: ast.Assign | ast.AnnAssign) -> bool:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    return isinstance(target, ast.Name) and target.id.isupper() and len(target.id) > 1
