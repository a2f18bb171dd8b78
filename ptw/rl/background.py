"""Who asks for answers: now, or in a thread while a step learns?"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ptw.data.pack import PackedRow
from ptw.rl.answers import Answer
from ptw.rl.engines import engines_of
from ptw.rl.episodes import Drawer, Seconds
from ptw.rl.settings import RolloutSettings
from ptw.train import weights
from ptw.train.run import Run

FOLDER = "rollout"  # of the run: the weights that answers are drawn with

Drawing = tuple[list[list[Answer]], Seconds]  # answers to each prompt, and what took how long


class Background:
    """Of the first worker: the engines, and what is asked of them, one thing at a time."""

    def __init__(self, run: Run, settings: RolloutSettings) -> None:
        self._run = run
        self._engines = engines_of(run.plan, settings, run.tokenizer.stop_ids, run.ledger.say)
        self.drawer = Drawer(run, settings, self._engines)
        self._thread = ThreadPoolExecutor(1, "rollouts")
        self._begun: Future[Drawing] | None = None

    def load(self, state: dict[str, Any]) -> None:
        """The engines get these weights."""
        run = self._run
        folder = run.plan.run_folder() / FOLDER / f"step-{run.steps_done:08d}"
        folder.parent.mkdir(exist_ok=True)
        with weights.made(folder) as aside:
            weights.write_model(run, aside, state)
        self._engines.load(folder)
        for old in folder.parent.iterdir():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)

    def now(self, rows: Sequence[PackedRow], each: int, step: int) -> Drawing:
        """After what was begun."""
        if self._begun is not None:
            wait([self._begun])
        return self.drawer.answers(rows, each, step)

    def begin(self, rows: Sequence[PackedRow], each: int, step: int) -> None:
        self._begun = self._thread.submit(self.drawer.answers, rows, each, step)

    def end(self) -> Drawing:
        """What was begun."""
        begun, self._begun = self._begun, None
        assert begun is not None
        return begun.result()

    def close(self) -> None:
        """What is still being drawn is given up."""
        self._engines.close()
        self.drawer.close()
        self._thread.shutdown(cancel_futures=True)
        shutil.rmtree(self._run.plan.run_folder() / FOLDER, ignore_errors=True)
