"""What was drawn for the next step while this one learnt, and what if the run ends between them?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ptw.data.sample import Sample
from ptw.nn.nucleus import Drawable
from ptw.rl.answers import Answer, Judged, Worth
from ptw.rl.engine import Drawn
from ptw.rl.prompts import Prompts
from ptw.train import checkpoint
from ptw.train.feed import StepRows

FOLDER = "ahead"  # of the run: a file of each step that it may go on with

OF_AN_ANSWER = ("place", "text", "rewards", "ended", "turns", "no_room")

Groups = list[list[Judged]]  # by prompt


def write(run: Path, step: int, rows: StepRows, groups: Groups, checkpoint_every: int) -> None:
    """The answers of the step that begins after `step` ones: a run that goes on there learns from these.

    The weights that drew them are gone when it does. What no checkpoint can need any more is forgotten.
    """
    file = _file(run, step)
    file.parent.mkdir(exist_ok=True)
    aside = file.with_name(f".writing-{file.name}")
    torch.save({"rows": rows.digest, "groups": [[_plain(one) for one in group] for group in groups]}, aside)
    os.replace(aside, file)
    _forget(run, step, checkpoint_every)


def _forget(run: Path, newest: int, checkpoint_every: int) -> None:
    """What no checkpoint goes on with; that of a step before may still be on its way to the disk."""
    saved = [checkpoint.step_of(folder) for folder in checkpoint.complete(run)]
    for file in (run / FOLDER).glob("*.pt"):
        step = int(file.stem.removeprefix("step-"))
        may_be_saved = step >= newest - 1 or (step % checkpoint_every == 0 and step > max(saved, default=0))
        if step not in saved and not may_be_saved:
            file.unlink()


def read(run: Path, step: int, rows: StepRows, row_of: Prompts) -> Groups | None:
    """What was kept for these rows after so many steps; None: nothing, or for others."""
    file = _file(run, step)
    if not file.is_file():
        return None
    found: dict[str, Any] = torch.load(file, weights_only=True)
    if found["rows"] != rows.digest:
        return None
    return [[_judged(values, row_of) for values in group] for group in found["groups"]]


def _file(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:08d}.pt"


def _plain(one: Judged) -> dict[str, Any]:
    """As torch reads it without running anything."""
    answer = one.answer
    return {
        "answer": {name: getattr(answer, name) for name in OF_AN_ANSWER},
        "messages": [dict(message) for message in answer.messages],
        "drawn": (answer.drawn.ids, answer.drawn.log_probs),
        "sample": (answer.sample.id, *map(torch.from_numpy, (answer.sample.ids, answer.sample.learn))),
        "worth": (one.worth.advantage_L, one.worth.action_L),
        "seen": (one.before, one.reference),
        "among": None if one.among is None else (one.among.ids_K, one.among.counts_M),
    }


def _judged(values: Mapping[str, Any], row_of: Prompts) -> Judged:
    id_, ids, learn = values["sample"]
    answer = Answer(
        **values["answer"],
        row=row_of[values["answer"]["place"]],
        messages=tuple(values["messages"]),
        drawn=Drawn(*values["drawn"]),
        sample=Sample(id_, ids.numpy(), learn.numpy()),
    )
    among = None if values["among"] is None else Drawable(*values["among"])
    before, reference = values["seen"]
    return Judged(answer, Worth(*values["worth"]), before, reference, among)
