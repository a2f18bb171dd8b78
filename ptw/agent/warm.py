"""Does an accepted port already fit this family, as it stands or with what the config class explains?

Explained are other defaults, and other names of fields. The gate says whether it fits; no LLM is asked.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptw.agent import judging
from ptw.agent.desk import Desk
from ptw.agent.judging import Verdict
from ptw.agent.reading.family import Facts
from ptw.agent.reading.nearest import Neighbour
from ptw.errors import PtwError
from ptw.ports.mapping import as_named
from ptw.ports.port import Port, configure
from ptw.ports.weights import Absent, Tied

MOST_TRIED, MOST_LOOKED_AT = 3, 6
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Draft:
    """A neighbour's text made this family's. `verdict`: of practice, where its weights fitted at all."""

    port: str
    text: str
    changes: tuple[str, ...]
    verdict: Verdict | None
    why_not: str = ""

    @property
    def fits(self) -> bool:
        """Whether it passes practice and refuses nothing that moves the reference."""
        return self.verdict is not None and self.verdict.passed and not self.verdict.refused

    @property
    def described(self) -> str:
        """For whoever goes on from it."""
        changed = f" with {', '.join(self.changes)}" if self.changes else ""
        what = (
            f"What stands there is a draft: the accepted port of {self.port}{changed}. Nothing else of it "
            "was adapted: not what from_hf takes, derives or leaves out, nor names of modules and tensors."
        )
        if self.why_not:
            return f"{what} It was not run: {self.why_not}."
        return f"{what} Of it practice says:\n{self.verdict}"


def drafts(found: Facts, neighbours: Sequence[Neighbour], desk: Desk, tell: Tell) -> Iterator[Draft]:
    """The likest ports in turn, each put into the worktree and held to practice where its weights fit."""
    tried = 0
    for neighbour in neighbours[:MOST_LOOKED_AT]:
        text, changes = adapted(found, neighbour.port)
        why_not = unfit(found, neighbour.port)
        if why_not:
            yield Draft(neighbour.port.model_type, text, changes, None, why_not)
            continue
        if tried == MOST_TRIED:
            return
        tried += 1
        tell(f"{neighbour.port.model_type} has the same tensors: practice")
        desk.file.parent.mkdir(exist_ok=True)
        desk.file.write_text(text, encoding="utf-8")
        yield Draft(neighbour.port.model_type, text, changes, judging.practice(desk.root, desk.model_type))


def unfit(found: Facts, port: Port) -> str:
    """Why a port can't even open the family's checkpoint; empty where it can."""
    renamed = dict(renamings(found, port))
    values = {renamed.get(key, key): value for key, value in found.plain.items()}
    try:
        operators = port.weights(configure(port, values))
    except PtwError as error:
        why = str(error).removeprefix("config.json: ").partition("; `port")[0]
        return f"it does not take the family's configuration ({why})"
    needed = [one for one in as_named(operators, found.shapes) if not isinstance(one, Absent | Tied)]
    names = {name for operator in needed for name in operator.theirs}
    tied = {one.name for one in operators if isinstance(one, Tied)}
    missing, more = names - found.shapes.keys(), found.shapes.keys() - names - tied
    if missing or more:
        examples = [f"lacks {min(missing)}"] if missing else []
        examples += [f"has {min(more)}"] if more else []
        return f"its tensors are others: the family {' and '.join(examples)}"
    return ""


def adapted(found: Facts, port: Port) -> tuple[str, tuple[str, ...]]:
    """The port's text with this family's name, defaults and names of fields, and what was changed."""
    text = port.file.read_text(encoding="utf-8")
    changes: list[str] = []
    defaults = dict(_other_defaults(found, text))
    for name, value in defaults.items():
        field = re.search(rf"(?m)^    {name}: [^=\n]+ = (.*)$", text)
        if field is not None:
            text = text[: field.start(1)] + _written(value) + text[field.end(1) :]
    for name in _fields(text):
        if found.declared.get(name) is not None:  # left out, it is this, and not what the port derives
            text = text.replace(f'values.get("{name}")', f'values.get("{name}", cls.{name})')
    if defaults:
        changes.append(f"this family's defaults of {', '.join(defaults)}")
    renamed = dict(renamings(found, port))
    if renamed:
        text = _with_names(text, renamed)
        changes.append(f"fields renamed ({', '.join(f'{own} is {usual}' for own, usual in renamed.items())})")
    return _with_title(text, found, port), tuple(changes)


def renamings(found: Facts, port: Port) -> Iterator[tuple[str, str]]:
    """Of the names that the config class maps: what stands in config.json -> what the port reads."""
    own = {field.name for field in dataclasses.fields(port.Config)}
    for usual, name in found.renamed.items():
        if usual in own and name not in own:
            yield name, usual
        elif name in own and usual not in own:
            yield usual, name


def _other_defaults(found: Facts, text: str) -> Iterator[tuple[str, Any]]:
    for name, (value, annotation) in _fields(text).items():
        default = found.defaults.get(name, value)
        kind = type(default).__name__
        fits = kind in annotation or (default is None and "None" in annotation)
        if default != value and fits and isinstance(default, int | float | str | bool | None):
            yield name, default


def _fields(text: str) -> Mapping[str, tuple[Any, str]]:
    """The plain defaults of Config, and the annotations of their fields."""
    found = {}
    config = next(
        one for one in ast.parse(text).body if isinstance(one, ast.ClassDef) and one.name == "Config"
    )
    for node in config.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            try:
                found[node.target.id] = (ast.literal_eval(node.value), ast.unparse(node.annotation))
            except ValueError:
                continue
    return found


def _written(value: Any) -> str:
    """As it is written by hand: 1e-6, not 1e-06."""
    if isinstance(value, str):
        return json.dumps(value)
    return re.sub(r"e([+-])0(\d)$", lambda match: f"e{match[1].lstrip('+')}{match[2]}", repr(value))


def _with_names(text: str, renamed: Mapping[str, str]) -> str:
    head = re.search(r"(?m)^( +)def from_hf\(cls, values: [^\n]*\n", text)
    if head is None:
        return text
    indent = head[1] + "    "
    lines = [
        f"{indent}names = {json.dumps(dict(renamed))}",
        f"{indent}values = {{names.get(key, key): value for key, value in values.items()}}",
    ]
    return text[: head.end()] + "\n".join(lines) + "\n" + text[head.end() :]


def _with_title(text: str, found: Facts, port: Port) -> str:
    """The docstring's first line names the family and its reference."""
    end = text.index('"""', 3)
    reference = f"transformers/models/{module_of(found.model_type)}.py"
    title = f"{found.model_type}, built like {port.model_type}. Reference: {reference}."
    return f'"""{title}' + text[end:]


def module_of(model_type: str) -> str:
    """`mistral/modeling_mistral`"""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    module = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]].__module__
    return "/".join(module.split(".")[-2:])
