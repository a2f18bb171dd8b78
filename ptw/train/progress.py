"""What does a person see while a run trains? What its folder says: the same with Ray and without."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ptw.runs import lines
from ptw.runs.figures import SECONDS, Figures, own_figures
from ptw.runs.record import EVENTS, METRICS

PLAIN_SECONDS = 10.0  # between lines where there is no terminal
WIDTH = 200  # of a plain line, which is never wrapped
RECENT = 20  # steps that the speed is measured over
OWN_SHOWN = 3  # figures of a recipe's own


class Watch:
    """Follows metrics.jsonl and events.jsonl from where they end now."""

    def __init__(self, folder: Path, bar: Progress | None, console: Console) -> None:
        self.folder = folder
        self.console = console
        self.bar = bar
        self._task: TaskID | None = None if bar is None else bar.add_task("starting", total=None)
        self._read = {name: lines.read(folder / name)[1] for name in (METRICS, EVENTS)}
        self._recent: list[lines.Line] = []
        self._said = 0.0

    def poll(self) -> None:
        """Show what was written since."""
        for event in self._new(EVENTS):
            self.console.print(f"{event['text']}", style="dim", highlight=False, markup=False)
        new = self._new(METRICS)
        for line in new:
            if line["kind"] == "eval":
                self.console.print(_measured(line), highlight=False, markup=False)
        steps = [line for line in new if line["kind"] == "train"]
        self._recent = (self._recent + steps)[-RECENT:]
        if not steps:
            return
        if self.bar is not None and self._task is not None:
            last = steps[-1]
            text = _status(self._recent)
            self.bar.update(self._task, description=text, completed=last["step"], total=last["total"])
        elif self._said + PLAIN_SECONDS < time.monotonic() or steps[-1]["step"] == steps[-1]["total"]:
            self._said = time.monotonic()
            self.console.print(_plain(self._recent), highlight=False, markup=False)

    def _new(self, name: str) -> list[lines.Line]:
        found, self._read[name] = lines.read(self.folder / name, self._read[name])
        return found


@contextmanager
def watching(folder: Path) -> Iterator[Watch]:
    """A bar on a terminal, else one plain line every so often; on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Watch(folder, None, Console(file=sys.stderr, width=WIDTH))
        return
    columns = (
        BarColumn(bar_width=20),
        TextColumn("{task.completed:.0f}/{task.total}"),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield Watch(folder, bar, console)


def _status(recent: list[lines.Line]) -> str:
    """The last loss, and the figures of the recent steps; of a run that learns nothing what it costs."""
    known = Figures.of(recent).texts()
    if "loss" not in recent[-1]:
        usd = f"  ${recent[-1]['usd']:.4f}" if "usd" in recent[-1] else ""
        refused = f"  {recent[-1]['refused']:,} refused" if recent[-1].get("refused") else ""
        return f"{known['tokens/s']} tokens/s{usd}{refused}"
    own = [
        f"{key} {value:.3g}" for key, value in own_figures(recent[-1]).items() if not key.endswith(SECONDS)
    ]
    figures = "".join(f"  {text}" for text in own[:OWN_SHOWN])
    return (
        f"loss {recent[-1]['loss']:.4f}{figures}  {known['tokens/s']} tokens/s  packed {known['packed']}  "
        f"MFU {known['MFU']}  waits {known['waits']}  {known['memory']}"
    )


def _plain(recent: list[lines.Line]) -> str:
    last = recent[-1]
    total = "" if last["total"] is None else f"/{last['total']}"
    return f"step {last['step']}{total}  {_status(recent)}{_remaining(recent)}"


def _remaining(recent: list[lines.Line]) -> str:
    last = recent[-1]
    if last["total"] is None or last["step"] >= last["total"]:
        return ""
    each = sum(line["seconds"] for line in recent) / sum(line.get("labelled", 1) for line in recent)
    return f"  {each * (last['total'] - last['step']):.0f} s to go"


def _measured(line: dict[str, Any]) -> str:
    figures = {key: value for key, value in line.items() if key not in ("kind", "step")}
    values = "  ".join(
        f"{key} {value:,}" if isinstance(value, int) else f"{key} {value:.4f}"
        for key, value in figures.items()
    )
    return f"after step {line['step']}: {values}"
