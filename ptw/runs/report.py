"""What does a person see of the runs: a table of them, and one with its curve?"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ptw.runs import lines
from ptw.runs.curves import LOSS, SPEED
from ptw.runs.figures import having, times
from ptw.runs.record import EVENTS, METRICS, RunRecord

WIDTH, HEIGHT = 72, 12  # characters of a curve; each holds 2 x 4 dots
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # of a braille character, by column and row
STYLES = {"done": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}
EVENTS_SHOWN = 8
REPLIES = "steps.jsonl"  # of add-model


def table(records: Sequence[RunRecord]) -> RenderableType:
    """One run a line, the oldest first."""
    if not records:
        return Text("no runs yet: `ptw train NAME` makes one")
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "state", "started", "steps", "loss", "commit"):
        grid.add_column(column, justify="right" if column in ("steps", "loss") else "left", overflow="fold")
    for record in records:
        steps = trained(record)
        last = steps[-1] if steps else {}
        grid.add_row(
            record.name,
            Text(record.state, STYLES.get(record.state, "")),
            datetime.fromisoformat(record.created).astimezone().strftime("%Y-%m-%d %H:%M"),
            str(last.get("step", _replies(record))),
            f"{last['loss']:.4f}" if "loss" in last else "-",
            commit_text(record),
        )
    return grid


def show(record: RunRecord) -> RenderableType:
    """What it was made from, what it measured, and its curve."""
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, text in _facts(record):
        facts.add_row(name, text)
    steps = trained(record)
    kind = next((kind for kind in (LOSS, SPEED) if having(steps, *kind.keys)), LOSS)
    points = [(float(line["step"]), kind.value(line)) for line in having(steps, *kind.keys)]
    drawn = curve(points) if len(points) > 1 else "no curve yet: fewer than two steps"
    return Group(facts, Text(), Text(f"{kind.title} by step", "bold"), Text(drawn, "cyan"))


def trained(record: RunRecord) -> list[dict[str, Any]]:
    """The lines of training steps."""
    return [line for line in lines.read(record.folder / METRICS)[0] if line.get("kind") == "train"]


def _replies(record: RunRecord) -> int:
    """Of the LLM, where one worked on a port."""
    return sum(line.get("kind") == "reply" for line in lines.read(record.folder / REPLIES)[0])


def curve(points: Sequence[tuple[float, float]], width: int = WIDTH, height: int = HEIGHT) -> str:
    """The points in braille, with the ends of both axes; not for NaN."""
    return overlaid([points], ("",), width, height).plain


def overlaid(
    curves: Sequence[Sequence[tuple[float, float]]],
    styles: Sequence[str],
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Text:
    """Curves on common axes, each in its style; the last style is for characters that several run through."""
    xs = [x for points in curves for x, _ in points]
    ys = [y for points in curves for _, y in points]
    dots = [[0] * width for _ in range(height)]
    owners = [[-1] * width for _ in range(height)]
    for number, points in enumerate(curves):
        for x, y in points:
            column = _place(x, min(xs), max(xs), 2 * width)
            row = 4 * height - 1 - _place(y, min(ys), max(ys), 4 * height)
            place = row // 4, column // 2
            dots[place[0]][place[1]] |= DOTS[column % 2][row % 4]
            taken = owners[place[0]][place[1]]
            owners[place[0]][place[1]] = number if taken in (-1, number) else len(styles) - 1
    labels = [f"{max(ys):.4g}", *[""] * (height - 2), f"{min(ys):.4g}"]
    margin = max(map(len, labels))
    drawn = Text()
    for label, cells, owned in zip(labels, dots, owners, strict=True):
        drawn.append(f"{label:>{margin}} │")
        filled = [column for column, owner in enumerate(owned) if owner >= 0]
        for column in range(max(filled, default=-1) + 1):
            drawn.append(chr(0x2800 + cells[column]), styles[owned[column]] if owned[column] >= 0 else "")
        drawn.append("\n")
    ends = f"{min(xs):g}", f"{max(xs):g}"
    drawn.append(" " * margin + " └" + "─" * width + "\n")
    return drawn.append(" " * (margin + 2) + ends[0] + ends[1].rjust(width - len(ends[0])))


def _place(value: float, low: float, high: float, count: int) -> int:
    return 0 if high == low else min(count - 1, int((value - low) / (high - low) * count))


def _facts(record: RunRecord) -> list[tuple[str, RenderableType]]:
    plan = record.plan
    state = Text(record.state, STYLES.get(record.state, ""))
    if record.message:
        state.append(f": {record.message}", "default")
    facts: list[tuple[str, RenderableType]] = [
        ("run", record.name),
        ("state", state),
        ("started", f"{record.created}" + (f", ended {record.finished}" if record.finished else "")),
        ("commit", commit_text(record)),
        ("recipe", f"{record.recipe}: {plan['file']}"),
        ("model", plan["model"]["name"]),
        ("tokenizer", f"{plan['tokenizer']['name']} {(record.fingerprint or '-')[:12]}"),
    ]
    facts += [(f"digest of {name}", digest[:16]) for name, digest in record.digests.items()]
    facts += [("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items()))]
    facts += [
        ("settings", ", ".join(f"{key} = {json.dumps(value)}" for key, value in record.settings.items()))
    ]
    if record.overrides:
        facts.append(("--set", ", ".join(f"{key}={value}" for key, value in record.overrides.items())))
    if any(record.faults.values()):
        counts = ", ".join(f"{count} {kind}" for kind, count in record.faults.items() if count)
        facts.append(("steps with faults", counts))
    measured = [line for line in lines.read(record.folder / METRICS)[0] if line.get("kind") == "eval"]
    for line in measured[:1] + measured[1:][-4:]:
        values = ", ".join(
            f"{key} {_number(line[key])}" for key in line if key not in ("kind", "step", "time")
        )
        facts.append((f"at step {line['step']}", values))
    if spent := times(trained(record)):
        facts.append(("time to", ", ".join(f"{what} {part:.0%}" for what, part in spent.items())))
    events = lines.read(record.folder / EVENTS)[0]
    facts += [("event", f"{event['time']} {event['text']}") for event in events[-EVENTS_SHOWN:]]
    return facts


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def commit_text(record: RunRecord) -> str:
    if record.commit is None:
        return "-"
    return record.commit[:10] + (" and changes" if record.dirty else "")
