"""What is wrong in workspace.toml, where, and what would do?"""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Problem:
    file: str
    line: int
    key: str  # dotted, as one would write it; empty for the file as a whole
    value: str  # as it stands, shortened; empty for a missing key
    message: str
    hint: str  # what would do; empty when the message says it

    def __str__(self) -> str:
        value = f" = {self.value}" if self.value else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.file}:{self.line}: {self.key}{value}: {self.message}{hint}"


def shown(value: object) -> str:
    """The value as TOML would have it, on one line, shortened."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        quoted = json.dumps(value, ensure_ascii=False)
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in quoted)
    elif isinstance(value, dict):
        text = (
            "{" + ", ".join(f"{dotted([key])} = {shown(part)}" for key, part in list(value.items())[:8]) + "}"
        )
    elif isinstance(value, list):
        text = "[" + ", ".join(shown(part) for part in value[:8]) + "]"
    else:
        text = str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that this one was probably meant to be."""
    close = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def hint_of(word: str, known: Sequence[str], what: str = "names") -> str:
    """`did you mean ...?`, or else the known names themselves."""
    close = nearest(word, known)
    if close is not None:
        return f"did you mean {close!r}?"
    if not known:
        return f"there are no {what} yet"
    listed = ", ".join(sorted(known)[:12]) + (", ..." if len(known) > 12 else "")
    return f"known {what}: {listed}"


def dotted(path: Sequence[str | int]) -> str:
    """The path as one would write it: models.stories.hf, source[2], models."a b"."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch("[A-Za-z0-9_-]+", part) else shown(part))
    return text
