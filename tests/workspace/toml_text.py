"""Values as a TOML text."""

from typing import Any


def written(document: dict[str, Any], tables: bool) -> str:
    """TOML, with tables at the top either under headers or inline."""
    plain = {key: value for key, value in document.items() if not (tables and isinstance(value, dict))}
    lines = [f"{quoted(key)} = {literal(value)}" for key, value in plain.items()]
    for key, table in document.items():
        if key not in plain:
            lines += [f"[ {quoted(key)} ] # header"]
            lines += [f"{quoted(inner)} = {literal(value)}" for inner, value in table.items()]
    return "\n".join(lines)


def literal(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {literal(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[\n  " + ", # ]\n  ".join(literal(part) for part in value) + "\n]"
    if isinstance(value, bool):
        return str(value).lower()
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\u0009") + '"'
