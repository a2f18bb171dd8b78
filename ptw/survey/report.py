"""What does a person see of a dataset in the terminal, with colours or without?"""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ptw.survey.facts import complaints, facts
from ptw.survey.figures import mixed
from ptw.survey.histogram import Bin, histogram
from ptw.survey.samples import Span, View, runs, views
from ptw.survey.survey import Survey

HEAD, TAIL = 240, 60  # tokens of a sample
BAR = 44  # characters
EIGHTHS = " ▏▎▍▌▋▊▉█"
LEARNT, SPECIAL, REST = "black on green", "cyan", "dim"
BEGIN, END = "⟦", "⟧"


def show(survey: Survey, console: Console, notes: Sequence[str]) -> None:
    """Figures, histogram, samples; where there are no colours, what is learnt stands between marks."""
    coloured = console.is_terminal and not console.no_color
    console.print(Text(survey.dataset.name, "bold"), f"({survey.dataset.format})", highlight=False)
    console.print(_table(facts(survey)))
    for note in notes:
        console.print(note, style="dim", highlight=False, markup=False)
    if survey.dataset.mix:
        console.print(Text("\nparts", "bold"), _mix(survey), sep="\n")
    found = complaints(survey)
    if found:
        console.print(Text("\nnot used", "bold"), _complaints(survey), sep="\n")
    bins = histogram(survey.lengths, survey.setup.window)
    if bins:
        console.print(Text("\nsamples by length in tokens", "bold"), _histogram(bins, survey), sep="\n")
    for view in views(survey, HEAD, TAIL):
        console.print(_titled(view), sample_text(view, coloured), sep="\n", soft_wrap=True)


def _table(rows: Sequence[tuple[str, str]]) -> RenderableType:
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(name, Text(text))
    return grid


def _mix(survey: Survey) -> RenderableType:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("part", overflow="fold")
    for name in ("declared", "samples", "of samples", "of tokens", "times read"):
        grid.add_column(name, justify="right")
    for part in mixed(survey):
        times = "-" if part.times is None else f"{part.times:.2f}"
        shares = [f"{share:.1%}" for share in (part.declared, part.of_samples, part.of_tokens)]
        grid.add_row(part.name, shares[0], f"{part.samples:,}", *shares[1:], times)
    return grid


def _complaints(survey: Survey) -> RenderableType:
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, kind, reason in complaints(survey):
        more = ", ..." if reason.count > len(reason.places) else ""
        of = f"{name}: " if survey.dataset.mix else ""
        where = Text(f"{of}{reason.text}").append(f"  {', '.join(reason.places)}{more}", "dim")
        grid.add_row(f"{reason.count:,}", Text(kind, "red" if kind == "faulty" else "yellow"), where)
    return grid


def _histogram(bins: Sequence[Bin], survey: Survey) -> RenderableType:
    """The window is a line between what fits it and what doesn't."""
    drawn, passed = Text(), False
    width = max(len(f"{one.high:,}") for one in bins)
    mark = f"{'':>{width}}   {'┄' * BAR} window {survey.setup.window:,}\n"
    for one in bins:
        if one.over and not passed:
            drawn.append(mark, "yellow")
            passed = True
        drawn.append(f"{one.low:>{width},} – {one.high:<{width},} ")
        drawn.append(bar(one), "red" if one.over else "green")
        drawn.append(f" {one.count:,}\n")
    if not passed:
        drawn.append(mark, "yellow")
    drawn.rstrip()
    return drawn


def bar(one: Bin) -> str:
    """In eighths of a character; a single sample among many is seen."""
    eighths = max(round(one.share * BAR * 8), 1) if one.count else 0
    return "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def _titled(view: View) -> Text:
    share = f"{view.tokens:,} tokens, {view.learnt:,} learnt"
    return Text.assemble("\n", (view.id, "bold"), f"  {', '.join(filter(None, (share, view.fate)))}")


def sample_text(view: View, coloured: bool) -> Text:
    """What is learnt on green, or, without colours, between marks."""
    text = _spans(view.head, coloured)
    if view.left_out:
        text.append(f"\n... {view.left_out:,} tokens ...\n", "italic").append(_spans(view.tail, coloured))
    if text.plain.endswith("\n"):  # its sign is before it
        text.right_crop(1)
    return text


def _spans(spans: Sequence[Span], coloured: bool) -> Text:
    text, inside = Text(), False
    for words, learnt, special in runs(spans):
        if not coloured and learnt != inside:
            text.append(BEGIN if learnt else END)
            inside = learnt
        text.append(words, " ".join(filter(None, (LEARNT if learnt else REST, _special(learnt, special)))))
    return text.append(END) if inside else text


def _special(learnt: bool, special: bool) -> str:
    return "" if not special else "bold" if learnt else SPECIAL


def listing(rows: Sequence[tuple[str, str, str, str]]) -> Group:
    """The declared datasets."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("dataset", "format", "files", "recipes"):
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return Group(grid)
