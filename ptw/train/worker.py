"""What does one worker do: under Ray Train, under torchrun, or alone?

Without a driver: `python -m ptw.train.worker PLAN.json`, also behind torchrun.
"""

import dataclasses
import errno
import json
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

import torch

from ptw.errors import PtwError
from ptw.runs import lock, record
from ptw.track.follow import tracked
from ptw.train import checkpoint
from ptw.train.count import Stopped
from ptw.train.facts import facts_of
from ptw.train.group import Group, joined
from ptw.train.labels import store
from ptw.train.labels.run import Labelling
from ptw.train.labels.settings import LabelSettings
from ptw.train.ledger import Ledger
from ptw.train.plan import Plan
from ptw.train.run import Run
from ptw.train.settings import TrainingSettings
from ptw.workspace import rooms

STOP = "stop"  # a file in the run's folder: whoever makes it asks the run to save and stop
ERROR = "error.txt"
LOCK_SECONDS = 60.0  # a worker that lost its driver takes a moment to die

told_to_go = threading.Event()  # by SIGTERM, in a process that a driver started


class Gone(Exception):
    """A worker's machine is taken away: a checkpoint was saved, and the workers are to be started again."""


def work(
    plan: Plan, stopping: Callable[[], bool] = lambda: False, leaving: Callable[[], bool] = lambda: False
) -> None:
    """Train by the plan, in the process group that there is; how it ended stands in the run's record.

    A PtwError and a fault of the recipe end the run; it raises again what another try might get past.
    `stopping` ends the run with a checkpoint; `leaving` saves one too, and raises Gone in every worker.
    """
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    with joined() as workers, ExitStack() as stack, tiny_as_zero():
        group = dataclasses.replace(workers, tensor=plan.cluster.tensor)
        if group.first:
            stack.enter_context(lock.held(plan.run_folder(), "worker", LOCK_SECONDS))
        if group.shared(record.read(plan.run_folder()).state) != "running":
            return  # it failed for good before this worker was started again
        try:
            _demand_dealt(plan, group)
            _train(plan, group, lambda: stopping() or leaving())
        except Stopped:
            _demand_all_stay(plan, group, stopping, leaving())
            _end(plan, group, "stopped", None)
        except PtwError as error:
            record.change(plan.run_folder(), state="failed", message=str(error))
            raise
        except Exception as error:
            if (hint := _hint(error)) is not None:
                record.change(plan.run_folder(), state="failed", message=hint)
                raise PtwError(hint) from error
            if group.world > 1 and isinstance(error, RuntimeError | OSError):
                raise  # this is also how a worker hears that another one is lost
            _record_bug(plan, error)
            raise
        else:
            _end(plan, group, "done", None)


@contextmanager
def tiny_as_zero() -> Iterator[None]:
    """Numbers below 1e-38 are 0 in this thread, and in those that it starts to compute.

    Attention that has learnt where to look is full of them, and they slow a CPU's backward pass down.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _demand_dealt(plan: Plan, group: Group) -> None:
    """Behind torchrun there may be another number of workers than the cluster has."""
    cluster = plan.cluster
    key = "experts" if cluster.experts > 1 else "tensor"
    together = getattr(cluster, key) * cluster.replicas
    if group.world % together:
        raise PtwError(
            f"cluster {cluster.name}: {group.world} workers are no multiple of {key} = "
            f"{getattr(cluster, key)} times replicas = {cluster.replicas}; start {together} or a multiple"
        )


def hosts_that_miss(folder: Path) -> list[str]:
    """The machines of workers that don't see the run's folder."""
    with joined() as group:
        sees = (folder / record.FILE).is_file()
        missing = group.gathered(None if sees else socket.gethostname())
    return sorted({host for host in missing if host is not None})


def _train(plan: Plan, group: Group, stopping: Callable[[], bool]) -> None:
    # counted before anything can be lost: also what dies while it loads the model is not tried for ever
    Ledger(plan.run_folder(), group).start(plan.launch, group.shared(_steps_saved(plan)))
    recipe = rooms.load(plan.file)
    settings = recipe.Settings(**plan.settings)

    def stops() -> bool:
        return stopping() or (group.first and _is_asked_to_stop(plan))

    if isinstance(settings, TrainingSettings):
        recipe.train(Run(plan, settings, group, stops), settings)
        _demand_saved(plan, group)
    elif isinstance(settings, LabelSettings):
        recipe.train(Labelling(plan, settings, group, stops), settings)
    else:
        hint = "write `class Settings(TrainingSettings)`, from ptw.train.settings"
        raise PtwError(f"{plan.file}: Settings lacks what every run is told: {hint}")


def _demand_saved(plan: Plan, group: Group) -> None:
    """PtwError where the recipe left no model; the checkpoints, each of which holds one, stay."""
    if group.shared((plan.run_folder() / record.MODEL).is_dir()):
        return
    step = group.shared(_steps_saved(plan))
    at = f"{plan.run_folder().name}@{step}"
    there = f"`ptw export {at} FOLDER` writes the one of step {step}; " if step else ""
    raise PtwError(
        f"{plan.file}: train ended without run.save(model), and the run has no model; {there}"
        "make run.save(model) the last line for the next run"
    )


def _steps_saved(plan: Plan) -> int:
    """Of training those of the newest checkpoint; of labelling what was said, a line each."""
    saved = checkpoint.complete(plan.run_folder())
    return checkpoint.step_of(saved[-1]) if saved else store.count(plan.run_folder())


def _demand_all_stay(plan: Plan, group: Group, stopping: Callable[[], bool], leaving: bool) -> None:
    """Gone where the run ended only because a worker must leave; being asked to stop weighs more."""
    asked = group.gathered(stopping() or (group.first and _is_asked_to_stop(plan)))
    hosts = [host for host in group.gathered(socket.gethostname() if leaving else None) if host is not None]
    if hosts and not any(asked):
        text = f"a worker on {', '.join(sorted(set(hosts)))} is told to go; a checkpoint is saved"
        Ledger(plan.run_folder(), group).say(text)
        group.wait()
        raise Gone(text)


def _is_asked_to_stop(plan: Plan) -> bool:
    """By the file, or because the driver on this machine was killed: Ray takes seconds to notice that."""
    folder = plan.run_folder()
    orphaned = plan.host == socket.gethostname() and not lock.is_held(folder, "driver")
    return orphaned or (folder / STOP).exists()


def _end(plan: Plan, group: Group, state: str, message: str | None) -> None:
    group.wait()
    if group.first:
        record.change(plan.run_folder(), state=state, message=message)


def _hint(error: Exception) -> str | None:
    """What would do, where memory or the disk ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        what = str(error).strip().splitlines()[0]
        less = "take fewer rows_at_once, or set recompute = true of the cluster"
        return f"{what}; {less}, then go on with --resume"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; make room, then go on with --resume"
    return None


def _record_bug(plan: Plan, error: Exception) -> None:
    """The traceback beside the record; a fault in the workspace's own recipe is the user's to mend."""
    text = "".join(traceback.format_exception(error))
    with suppress(OSError):  # a full disk is no reason to lose the message too
        (plan.run_folder() / ERROR).write_text(text, encoding="utf-8")
    places = traceback.extract_tb(error.__traceback__)
    own = [place for place in places if place.filename == str(plan.file)]
    where = f"{plan.file}:{own[-1].lineno}: " if own else ""
    message = f"{where}{type(error).__name__}: {error} (the traceback is in {plan.run_folder() / ERROR})"
    is_theirs = bool(own) and places[-1].filename == str(plan.file)
    record.change(plan.run_folder(), state="failed", message=message if is_theirs else f"bug: {message}")


def hear_sigterm() -> None:
    """In the main thread of a worker of Ray's; a second one ends the process at once."""

    def hear(number: int, frame: FrameType | None) -> None:
        told_to_go.set()
        signal.signal(number, signal.SIG_DFL)

    told_to_go.clear()
    signal.signal(signal.SIGTERM, hear)


@contextmanager
def heeding_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came; a second one ends the process at once."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(path: Path) -> int:
    """Train by a plan, or go on with the run whose run.json this is; a run that is done stays as it is."""
    with joined() as group, heeding_signals() as stopping:
        try:
            plan = _placed(path, group)
            if plan is None:
                return 0
            with tracked(plan.run_folder(), plan.tracking if group.first else {}):
                work(plan, stopping)
        except PtwError as error:
            if group.first:
                sys.stderr.write(f"ptw: {error}\n")
            return 1
        return 130 if stopping() else 0


def _placed(path: Path, group: Group) -> Plan | None:
    """The plan in its run's folder, which the first worker makes; None: the run is done."""
    plan, fault = None, None
    if group.first:
        try:
            plan = _begun(path)
        except PtwError as error:
            fault = str(error)
    plan, fault = group.shared((plan, fault))
    if fault is not None:
        raise PtwError(fault)
    return plan


def _begun(path: Path) -> Plan | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        plan = Plan.from_json(values.get("plan", values))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        hint = "name a plan as JSON, or the run.json of a run"
        raise PtwError(f"{path}: cannot be read as a plan ({error}); {hint}") from error
    if plan.folder is None:
        found = record.create(plan.root, plan.recipe, **facts_of(plan))
    else:
        found = record.read(plan.folder)
    if found.state == "done":
        sys.stderr.write(f"{found.name} is done; there is nothing left to train\n")
        return None
    plan = dataclasses.replace(plan, folder=found.folder, host="")
    record.change(found.folder, state="running", message=None, plan=plan.as_json())
    (found.folder / STOP).unlink(missing_ok=True)
    return plan


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m ptw.train.worker PLAN.json\n")
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1])))
