"""Does a saved tokenizer still give the ids that it gave when it was saved? A file beside it says which."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptw.errors import PtwError
from ptw.tokens.pipeline import PROBES

if TYPE_CHECKING:
    from ptw.tokens.tokenizer import Tokenizer

FILE = "tokenizer_fingerprint.json"  # transformers and vLLM take no notice of it


def of(parts: dict[str, Any]) -> str:
    """sha256 of what is probed."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write(folder: Path, tokenizer: Tokenizer) -> None:
    """Beside the files that give these ids; OSError where the folder can't be written."""
    values = {
        "fingerprint": tokenizer.fingerprint,
        "parts": {name: of({name: part}) for name, part in tokenizer.probed.items()},
        "transformers": metadata.version("transformers"),
    }
    (folder / FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> str | None:
    """None where the folder has none: ptw has not saved it."""
    values = _values(folder)
    return None if values is None else str(values["fingerprint"])


def demand(folder: Path, tokenizer: Tokenizer) -> None:
    """PtwError if the folder was saved with other ids than it gives now."""
    values = _values(folder)
    if values is None or values["fingerprint"] == tokenizer.fingerprint:
        return
    now = {name: of({name: part}) for name, part in tokenizer.probed.items()}
    other = [name for name, digest in now.items() if values["parts"].get(name) != digest]
    since = ""
    if values["transformers"] != metadata.version("transformers"):
        since = f" with transformers {values['transformers']}, this is {metadata.version('transformers')}"
    raise PtwError(
        f"{folder}: its tokenizer is not the one that was saved there{since}: other {' and '.join(other)}; "
        f"restore its tokenizer files, or remove {FILE} if the change is meant"
    )


def first_difference(own: Tokenizer, other: Tokenizer) -> str | None:
    """Which token or text of `own` has other ids in `other`, which may have more tokens."""
    has = other.hf.get_vocab()
    for token, id_ in sorted(own.hf.get_vocab().items(), key=lambda pair: pair[1]):
        if has.get(token) != id_:
            return f"token {token!r} is {id_} there, {has.get(token, 'none')} here"
    for name, ids in own.vocabularies.items():
        now = other.vocabularies.get(name)
        if now is None:
            return f"semantic_ids.{name} is there, and not here"
        changed = now.changed(ids)
        if changed and not now.descends_from(ids):
            return (
                f"{changed:,} of {len(ids.items):,} items of semantic_ids.{name} have other codes here, and "
                f"version {now.version} was not made of its version {ids.version} by `ptw vocab extend`; "
                f"declare version = {ids.version} in [semantic_ids.{name}]"
            )
    if own.fields and own.fields.as_json() != other.fields.as_json():
        names = [", ".join(one.name for one in side.fields.declared) or "none" for side in (own, other)]
        same = "the same fields, told apart or merged otherwise" if names[0] == names[1] else names[1]
        return f"its events have the fields {names[0]} there, {same} here"
    for probe, before, now in zip(PROBES, own.probed["texts"], other.probed["texts"], strict=True):
        if before != now:
            return f"other ids for {probe!r}"
    return None


def _values(folder: Path) -> dict[str, Any] | None:
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {"fingerprint": values["fingerprint"], "parts": dict(values["parts"]), **values}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PtwError(f"{file}: cannot be read ({error!r}); restore it, or remove it") from error
