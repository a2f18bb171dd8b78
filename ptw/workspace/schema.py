"""Which keys and types may workspace.toml have, and where does it break that?"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptw.workspace.document import Document
from ptw.workspace.problem import Problem, hint_of, shown

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

KINDS = {
    "object": "a table",
    "string": "a string",
    "integer": "an integer",
    "number": "a finite number",
    "array": "a list",
    "boolean": "true or false",
}
NAME_RULE = "a name has letters, digits, '.', '_' and '-', begins with a letter or digit, and has at most 64"
PINNED = "pin the full commit: 40 hexadecimal digits in lower case"


def schema_text() -> str:
    """The schema as `ptw schema` prints it and the scaffold writes it."""
    return Path(__file__).with_name("schema.json").read_text(encoding="utf-8")


def is_name(text: str) -> bool:
    return re.search(json.loads(schema_text())["$defs"]["name"]["pattern"], text) is not None


def violations(document: Document) -> list[Problem]:
    """Every place where the document breaks the schema."""
    errors = list(validator().iter_errors(document.values))
    mistyped = {tuple(error.absolute_path) for error in errors if error.validator == "type"}
    told = [e for e in errors if e.validator == "type" or tuple(e.absolute_path) not in mistyped]
    return list(dict.fromkeys(problem for error in told for problem in explained(document, error)))


@cache
def validator() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    # TOML tells 2 from 2.0, and has nan and inf
    checker = Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": is_integer, "number": is_finite})
    return extend(Draft202012Validator, type_checker=checker)(json.loads(schema_text()))


def is_integer(checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(checker: object, value: object) -> bool:
    return is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))


def explained(document: Document, error: "ValidationError") -> Iterator[Problem]:
    """One violation in the user's words; `required` and unknown keys name the key itself."""
    path = list(error.absolute_path)
    schema = error.schema if isinstance(error.schema, dict) else {}
    match error.validator:
        case "additionalProperties":
            known = sorted(schema["properties"])
            for key in sorted(set(error.instance) - set(known)):
                hint = hint_of(key, known, "keys")
                yield document.problem([*path, key], error.instance[key], "unknown key", hint)
        case "required":
            missing = next(key for key in error.validator_value if error.message.startswith(f"{key!r} "))
            yield document.problem([*path, missing], None, "missing", described(schema, missing))
        case "dependentRequired":
            yield from dependent(document, path, error)
        case "oneOf":
            yield exclusive(document, path, error)
        case "pattern" if "propertyNames" in error.absolute_schema_path:
            yield document.problem([*path, error.instance], None, "not a name", NAME_RULE)
        case _:
            yield plain(document, path, error)


def described(schema: dict[str, Any], key: str) -> str:
    text = schema.get("properties", {}).get(key, {}).get("description", "")
    return f"add {key}: {text}" if text else f"add {key}"


def dependent(document: Document, path: Sequence[str | int], error: "ValidationError") -> Iterator[Problem]:
    """A key that says nothing without another."""
    for key, needed in error.validator_value.items():
        for other in needed:
            if key in error.instance and other not in error.instance:
                message, hint = f"needs {other} beside it", f"add {other}, or remove {key}"
                yield document.problem([*path, key], error.instance[key], message, hint)


def exclusive(document: Document, path: Sequence[str | int], error: "ValidationError") -> Problem:
    """Keys of which exactly one must be there."""
    choices = [branch["required"][0] for branch in error.validator_value]
    given = [key for key in choices if key in error.instance]
    listed = ", ".join(choices[:-1]) + " and " + choices[-1]
    if not given:
        return document.problem(path, None, f"none of {listed}", "add exactly one of them")
    message = f"stands beside {given[0]}; only one of {listed} may be there"
    return document.problem([*path, given[1]], error.instance[given[1]], message, "remove one")


def plain(document: Document, path: Sequence[str | int], error: "ValidationError") -> Problem:
    """A value of the wrong type, size or form."""
    value, limit = error.instance, error.validator_value
    match error.validator:
        case "type":
            kinds = [limit] if isinstance(limit, str) else limit
            message, hint = "wrong type", "it must be " + " or ".join(KINDS[kind] for kind in kinds)
        case "enum":
            message, hint = "not one of the choices", hint_of(shown(value).strip('"'), limit, "choices")
        case "minLength" | "minItems" | "minProperties":
            message, hint = "empty", "give at least one"
        case "minimum":
            message, hint = "too small", f"the least is {limit}"
        case "exclusiveMinimum":
            message, hint = "too small", f"it must be more than {limit}"
        case "maximum":
            message, hint = "too large", f"the most is {limit}"
        case "pattern" if "environment" in path or path[-1:] == ["api_key_env"]:
            message, hint = (
                "not a variable's name",
                "it has letters, digits and '_', and begins with no digit",
            )
        case "pattern":
            revision = path[-1:] == ["revision"]
            message = "not a full commit" if revision else "not a name"
            hint = PINNED if revision else NAME_RULE
        case _:
            message, hint = error.message, ""
    return document.problem(path, value, message, hint)
