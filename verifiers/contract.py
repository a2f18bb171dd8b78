"""A port's text names nothing but what a port may: torch's arithmetic, ptw.nn and its own definitions.

What is allowed is listed; what is not listed is a violation. Nothing of the port runs here.
"""

from __future__ import annotations

import ast
import builtins
import math
import re
from collections.abc import Callable, Iterator
from functools import cache

from torch import Tensor, nn

LIMITS = {"violations": 0.0}

Found = Iterator[tuple[ast.AST, str]]
MODULES = {"math", "torch", "nn", "functional"}
NAMES = {  # what may be imported; of ptw what its modules define themselves
    "__future__": "annotations",
    "collections.abc": "Callable Collection Iterable Iterator Mapping Sequence",
    "dataclasses": "dataclass field replace",
    "enum": "Enum IntEnum StrEnum auto",
    "functools": "partial",
    "ptw.errors": "PtwError",
    "torch": "Tensor nn",
    "torch.nn": "functional",
    "typing": "Any Final Literal NamedTuple Protocol Self TypeAlias TypeVar cast",
}
FOREIGN = {
    "cached_property",
    "checkpoint",
    "dataclasses",
    "once",
    "once_differentiable",
    "re",
    "replace",
    *MODULES,
}  # stand in modules of ptw, and are not its own
ALLOWED = {  # of modules and objects: attributes that may be used
    "builtins": """abs all any bool classmethod dict divmod enumerate filter float frozenset int isinstance
        len list map max min pow property range reversed round set slice sorted staticmethod str sum super
        tuple zip AssertionError NotImplementedError TypeError ValueError""",
    "torch": """Tensor Size nn float64 float32 float16 bfloat16 int64 int32 bool finfo inf abs add addcmul
        all any arange argsort baddbmm bmm bucketize cat chunk clamp concat cos cumprod cumsum div einsum
        empty empty_like eq erf exp expm1 eye flatten flip floor full full_like gather ge gt index_select le
        linspace log log1p logical_and logical_not logical_or logsumexp lt matmul max maximum mean min
        minimum movedim mul ne neg norm ones ones_like outer permute pow prod reciprocal relu
        repeat_interleave reshape rms_norm roll rsqrt scatter sigmoid sign sin softmax sort split sqrt
        square squeeze stack sub sum swapaxes tanh tensor_split tile topk transpose tril triu unbind
        unsqueeze var where zeros zeros_like""",
    "functional": """celu conv1d dropout elu embedding gelu glu hardsigmoid hardswish hardtanh layer_norm
        leaky_relu linear log_softmax logsigmoid mish normalize one_hot pad prelu relu relu6 rms_norm selu
        sigmoid silu softmax softplus tanh""",
    "nn": """Conv1d Dropout Embedding GELU GroupNorm Identity LayerNorm Linear Mish Module ModuleDict
        ModuleList Parameter ParameterList ReLU RMSNorm Sequential SiLU Sigmoid Softmax Softplus Tanh
        functional""",
    "math": " ".join(name for name in dir(math) if not name.startswith("_")),
    # of what torch's tensors and modules have; other attributes are the port's and ptw's own
    "tensors": """T mT abs add addcmul all amax amin any argmax argmin argsort baddbmm bmm bool chunk clamp
        clamp_max clamp_min clip clone contiguous cos cumsum detach device dim div dtype eq erf exp expand
        expand_as extra_repr flatten flip float floor forward gather ge gt index index_add index_select int
        layout le log log_softmax logsumexp long lt masked_fill matmul max maximum mean min minimum movedim
        mul name narrow ndim ne neg new_empty new_full new_ones new_zeros norm numel permute pow prod
        reciprocal relu repeat repeat_interleave reshape roll rsqrt scatter scatter_add select shape sigmoid
        sign sin size softmax sort split sqrt square squeeze sub sum swapaxes t tanh to topk training
        transpose tril triu type_as unbind unflatten unfold unsqueeze values var view view_as where add_
        clamp_ copy_ div_ exp_ fill_ index_add_ masked_fill_ mul_ relu_ scatter_ scatter_add_ sub_""",
}
MAY = {place: frozenset(names.split()) for place, names in ALLOWED.items()}
MAY_IMPORT = {module: frozenset(names.split()) for module, names in NAMES.items()}
IN_TORCH = {*dir(Tensor), *dir(nn.Module)}
FRAMES = re.compile(r"(gi|cr|ag|tb|f|co)_[a-z]+$")  # from a frame a program reaches everything
DECORATORS = {"dataclass", "classmethod", "staticmethod", "property"}
BASES = {"nn.Module", "nn.Embedding", "Enum", "IntEnum", "StrEnum", "NamedTuple", "Protocol"}
MOST_NUMBERS, MOST_TEXT, LARGEST = 16, 400, 1 << 40  # in one display, one string, one integer


def told() -> str:
    """All that a port may name, for whoever writes one."""
    modules = {**NAMES, "ptw.nn.*, ptw.ports.weights": "all that they define"}
    lines = ["import math", "import torch"]
    lines += [f"from {module} import {' '.join(names.split())}" for module, names in modules.items()]
    lines += [f"{place}: {' '.join(names.split())}" for place, names in ALLOWED.items() if place != "math"]
    bases = f"bases: {' '.join(sorted(BASES))}, and ptw.nn's own classes"
    lines += [f"decorators: {' '.join(sorted(DECORATORS))}", bases]
    lines += ["every argument has a type; module level holds imports, constants, classes and functions only:"]
    lines += ["constants are numbers, strings and tuples of them; no list, dict or set"]
    lines += ["Config is a frozen dataclass with from_hf; Model has forward and head"]
    return "\n".join(lines)


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Of the text alone, so that few cases are enough: the thorough ones."""
    if not len(theirs.get("given.nudged", ())):
        return {}
    return {"violations": float(len(violations(_source(ours))))}


def explain(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Line by line: what, and what would do."""
    return [f"line {line}: {text}" for line, text in violations(_source(ours))]


def _source(ours: dict[str, Tensor]) -> bytes:
    return bytes(ours["source"].tolist())


@cache
def violations(source: bytes) -> tuple[tuple[int, str], ...]:
    """Line and text of all that the rules find."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        return ((getattr(error, "lineno", None) or 1, f"it is not Python: {error}"),)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    rules: tuple[Callable[..., Found], ...] = (_parts, _imports, _names, _attributes, _definitions, _literals)
    found = {(getattr(node, "lineno", 1), text) for rule in rules for node, text in rule(tree, parents)}
    return tuple(sorted(found))


Parents = dict[ast.AST, ast.AST]


def _parts(tree: ast.Module, parents: Parents) -> Found:
    defined = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for name in ("Config", "Model", "weights"):
        if name not in defined:
            yield tree, f"it defines no {name}; a port defines Config, Model and weights"
    config, model = defined.get("Config"), defined.get("Model")
    if isinstance(config, ast.ClassDef):
        if "dataclass(frozen=True)" not in map(ast.unparse, config.decorator_list):
            yield config, "Config can be changed; write @dataclass(frozen=True)"
        if "from_hf" not in _methods(config):
            yield config, "Config has no from_hf, which reads the values of config.json"
    if isinstance(model, ast.ClassDef):
        for name in sorted({"forward", "head"} - _methods(model)):
            yield model, f"Model has no {name}"
    for statement in tree.body:
        is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            if statement.value is not None and not _is_constant(statement.value):
                yield statement, "a value at module level that can change; use constants and tuples of them"
        elif not (
            is_text or isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
        ):
            yield statement, "a statement at module level; there are imports, constants, classes, functions"


def _methods(node: ast.ClassDef) -> set[str]:
    return {one.name for one in node.body if isinstance(one, ast.FunctionDef)}


def _is_constant(node: ast.expr) -> bool:
    """Numbers, texts, types, names of such, and tuples and sums of them."""
    kinds = (ast.Constant, ast.Name, ast.Tuple, ast.UnaryOp, ast.BinOp, ast.unaryop, ast.operator, ast.Load)
    plain = (*kinds, ast.Subscript, ast.Attribute, ast.JoinedStr, ast.FormattedValue, ast.Starred)
    return all(isinstance(part, plain) for part in ast.walk(node))


def _imports(tree: ast.Module, parents: Parents) -> Found:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            if node not in tree.body:
                yield node, "an import inside a block; imports stand at the top"
            for alias in node.names:
                module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
                if alias.asname:
                    yield node, f"{alias.name} under another name; import it under its own"
                if not _may_import(module, alias.name):
                    what = f"from {module} import {alias.name}" if module else f"import {alias.name}"
                    yield node, f"`{what}`; a port imports torch, ptw.nn, ptw.ports.weights and plain typing"


def _may_import(module: str, name: str) -> bool:
    if not module:
        return name in ("math", "torch")
    if module in NAMES:
        return name in MAY_IMPORT[module]
    elsewhere = FOREIGN.union(*(MAY_IMPORT[other] for other in NAMES if other != "ptw.errors"))
    own = module.startswith("ptw.nn.") or module == "ptw.ports.weights"
    own = own and "._" not in module
    return own and not name.startswith("_") and name != "*" and name not in elsewhere


def _names(tree: ast.Module, parents: Parents) -> Found:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.name for node in imports for alias in node.names}
    known = {*MAY["builtins"], *imported}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            known.add(node.name)
        elif isinstance(node, ast.arg) or (isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)):
            known.add(_name(node))
    for node in ast.walk(tree):
        name, parent = _name(node), parents.get(node)
        if not name:
            continue
        if name.startswith("__") or (name in dir(builtins) and name not in MAY["builtins"]):
            yield (
                node,
                f"{name}: a port computes from its configuration and its inputs, and needs none of this",
            )
        elif name not in known:
            yield node, f"{name} is defined nowhere in the file"
        elif name in MODULES & imported and not (isinstance(parent, ast.Attribute) and parent.value is node):
            yield node, f"{name} itself is handed on or replaced; use its functions by name"


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else ""


def _attributes(tree: ast.Module, parents: Parents) -> Found:
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        name, base = node.attr, ast.unparse(node.value)
        module = base.removeprefix("torch.").removeprefix("nn.")
        is_own = base in ("self", "cls", "config") and name in own
        if module in MODULES:
            if name not in MAY[module]:
                yield node, f"{base}.{name} is not among what a port may use of {module}"
        elif name.startswith("__"):
            if name != "__init__" or base != "super()":
                yield node, f".{name}: a port looks behind no object"
        elif (name.startswith("_") or FRAMES.match(name)) and not is_own:
            yield node, f".{name} is private to another object"
        elif name in IN_TORCH and name not in MAY["tensors"] and not is_own:
            yield node, f".{name} is not among what a port may use of tensors and modules"


def _definitions(tree: ast.Module, parents: Parents) -> Found:
    local = {one.name for one in tree.body if isinstance(one, ast.ClassDef)}
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                called = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
                if called not in DECORATORS:
                    yield decorator, f"the decorator {called}; a port may use {', '.join(sorted(DECORATORS))}"
        if isinstance(node, ast.FunctionDef):
            if node.name.startswith("__") and node.name != "__init__":
                yield node, f"{node.name}: of Python's own methods a port defines __init__ only"
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg) and not (argument.annotation or _is_self(argument)):
                    yield argument, f"{argument.arg} has no type"
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
                if not _is_constant(default):
                    yield default, "a default that can change; use a constant or None"
        if isinstance(node, ast.ClassDef):
            # of ptw.nn a norm or an embedding may be extended
            known = BASES | local | {name for name in imported if name[0].isupper()}
            if node.keywords or not {ast.unparse(base) for base in node.bases} <= known:
                yield node, f"the bases of {node.name}; a port's classes are modules, dataclasses or enums"


def _is_self(argument: ast.arg) -> bool:
    return argument.arg in ("self", "cls")


def _literals(tree: ast.Module, parents: Parents) -> Found:
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
            constants = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
            numbers = sum(isinstance(value, int | float) for value in constants)
            if numbers > MOST_NUMBERS:
                yield node, f"{numbers} numbers written out; a port computes what it needs"
        elif isinstance(node, ast.Constant) and not isinstance(parents[node], ast.Expr):
            value = node.value
            is_data = isinstance(value, bytes) or (isinstance(value, str) and len(value) > MOST_TEXT)
            if is_data or (isinstance(value, int) and abs(value) > LARGEST):
                yield node, "data written out; a port computes what it needs"
