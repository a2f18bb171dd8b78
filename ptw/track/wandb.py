"""How does a run get into Weights & Biases? Over its own client; WANDB_MODE=offline keeps it for later."""

import hashlib
import os
from collections.abc import Mapping, Sequence

import wandb

from ptw.errors import PtwError
from ptw.runs.record import RunRecord
from ptw.track.follow import Known, Row, settings_of


class Wandb:
    """One run of a project of Weights & Biases."""

    def __init__(self, run: "wandb.Run") -> None:
        self.run, self.id = run, run.id

    def known(self) -> Mapping[str, int]:
        return {}

    def log(self, rows: Sequence[Row]) -> None:
        for step, values in rows:
            self.run.log(values, step=step)

    def close(self, state: str) -> None:
        self.run.finish(exit_code=0 if state == "done" else 1)


def begin(target: str | bool, run: RunRecord, known: Known) -> Wandb:
    """`target`: the project."""
    # asked here, or it would ask for a key on the terminal
    if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
        raise PtwError("no key is known: `wandb login`, or set WANDB_MODE=offline")
    own = hashlib.sha256(f"{run.folder}{run.created}".encode()).hexdigest()[:8]
    opened = wandb.init(
        project=str(target),
        id=known.id or f"{run.name}-{own}",
        name=run.name,
        group=run.recipe,
        config=settings_of(run),
        resume="allow",
        dir=run.folder,
        # a training run speaks for itself, and its signals are its own
        settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
    )
    return Wandb(opened)
