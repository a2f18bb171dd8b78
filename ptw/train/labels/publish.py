"""How do all labels become one file, in the order of the rows, whole or not there?"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ptw.errors import PtwError
from ptw.train.labels.compose import COUNTED, Line

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling

LABELS = "labels.jsonl"
REFUSED = "refused.jsonl"


def publish(run: Labelling, format: str, lines: Iterable[Line]) -> None:
    """Write labels.jsonl, and refused.jsonl where rows were refused; the first worker does.

    PtwError where nothing but refused rows is left.
    """
    if run.group.first:
        folder = run.plan.run_folder()
        figures, first = _written(folder, lines)
        spent = {} if run.spent_usd is None else {"spent_usd": run.spent_usd}
        run.ledger.metric("eval", run.steps_done, **figures, **spent)
        if not figures["rows"]:
            raise PtwError(
                f"all {figures['refused']} rows were refused, the first, {first}; all: {folder / REFUSED}"
            )
        refused = f", {figures['refused']:,} refused ({REFUSED})" if figures["refused"] else ""
        where = f"{folder.parent.name}/{folder.name}/{LABELS}"
        run.ledger.say(f'{figures["rows"]:,} rows{refused}: source = "{where}", format = "{format}"')
    run.group.wait()


def _written(folder: Path, lines: Iterable[Line]) -> tuple[dict[str, Any], str]:
    """What is in the files, and the first refused row with its reason."""
    figures: Counter[str] = Counter(rows=0, refused=0)
    first = ""
    with _aside(folder / REFUSED) as refused, _aside(folder / LABELS) as labels:
        for line in lines:
            is_refused = "refused" in line
            first = first or (f"{line['source']}: {line['refused']}" if is_refused else "")
            figures["refused" if is_refused else "rows"] += 1
            figures.update({key: line["cost"][key] for key in COUNTED if key in line["cost"]})
            (refused if is_refused else labels).write(json.dumps(line, ensure_ascii=False) + "\n")
    return dict(figures), first


@contextmanager
def _aside(path: Path) -> Iterator[TextIO]:
    """A file that appears under its name when it is whole; an empty one does not."""
    aside = path.with_name(f".{path.name}.aside")
    try:
        with aside.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if aside.stat().st_size:
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
