"""How does one worker train on this machine's CPU, where Ray's own processes would take from its cores?

A process of its own, started again when it is lost: `python -m ptw.train.alone RUN_FOLDER`.
"""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

from ptw.errors import PtwError
from ptw.runs import lines, record
from ptw.train import worker
from ptw.train.connect import threads_of
from ptw.train.plan import Plan
from ptw.workspace import rooms

LOG = "worker.log"  # in the run's folder: what the worker and its recipe print
IN_VAIN = 3  # processes in a row that end before they train
LAST_LINES = 3


def suffices(plan: Plan) -> bool:
    """Whether one process is all that the run needs, and nobody has a Ray for it."""
    cluster, ray = plan.cluster, sys.modules.get("ray")
    if cluster.address is not None or cluster.workers > 1 or cluster.gpus_per_worker:
        return False
    if ray is not None and ray.is_initialized():
        return False
    return not getattr(rooms.load(plan.file).Settings, "needs_ray", False)


class Alone:
    """The run's one worker."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def fit(self, plan: Plan, outcome: list[Exception]) -> None:
        """Until the run's record says how it ended; `outcome` takes why it can't say so."""
        try:
            self._fit(plan.run_folder())
        except (PtwError, OSError) as error:
            outcome.append(PtwError(f"the worker of this run cannot be started: {error}"))

    def _fit(self, folder: Path) -> None:
        vain = 0
        while record.read(folder).state == "running":
            begun = _starts(folder)
            status = self._run(folder)
            vain = vain + 1 if _starts(folder) == begun else 0
            if vain == IN_VAIN:
                said = f"it ended {vain} times before it trained (status {status})"
                raise PtwError(f"{said}: {_last_words(folder)}")

    def kill(self) -> None:
        """At once, with nothing saved."""
        if self._process is not None:
            self._process.kill()

    def _run(self, folder: Path) -> int:
        command = [sys.executable, "-P", "-m", "ptw.train.alone", str(folder)]
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for the driver, who asks it to save and stop
            )
        return self._process.wait()


def _starts(folder: Path) -> int:
    return sum("start" in event for event in lines.read(folder / record.EVENTS)[0])


def _last_words(folder: Path) -> str:
    text = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{' / '.join(text[-LAST_LINES:])} ({folder / LOG})"


def main(folder: Path) -> None:
    """What a worker of Ray's does, in this process: raises where another one may get further."""
    plan = dataclasses.replace(Plan.from_json(record.read(folder).plan), threads=threads_of(1))
    worker.hear_sigterm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker.work(plan, leaving=worker.told_to_go.is_set)
    except Exception:
        if record.read(folder).state == "running":
            raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
