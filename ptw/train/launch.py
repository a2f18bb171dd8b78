"""How is a run started, so that lost workers come back, and stopped, so that nothing is lost?"""

import dataclasses
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ptw.errors import PtwError
from ptw.runs import lock, record
from ptw.tokens.declared import open_tokenizer
from ptw.track.follow import tracked
from ptw.train import alone, worker
from ptw.train.connect import Room, last_line, ray_for, threads_of
from ptw.train.facts import REWARD, digests_of, facts_of
from ptw.train.group import Group
from ptw.train.ledger import Ledger
from ptw.train.plan import Plan, differences, gone_on, resolve
from ptw.train.progress import Watch, watching
from ptw.workspace.manifest import Workspace

POLL_SECONDS = 0.2
MOST_STARTS = 100


def train(workspace: Workspace, recipe: str, overrides: Mapping[str, str], resume: bool) -> Path:
    """Run a recipe to its end; the run's folder. KeyboardInterrupt after a stop that was asked for."""
    return carry_out(begun(workspace, recipe, overrides, resume))


def begun(workspace: Workspace, recipe: str, overrides: Mapping[str, str], resume: bool) -> record.RunRecord:
    """A new run, or the recipe's newest unfinished one; PtwError if what it is made from changed since."""
    return _resumed(workspace, recipe, overrides) if resume else _new(workspace, recipe, overrides)


def carry_out(found: record.RunRecord) -> Path:
    """Train this run from here; its folder."""
    folder = found.folder
    with lock.held(folder, "driver"):
        plan = dataclasses.replace(
            Plan.from_json(found.plan),
            folder=folder,
            launch=secrets.token_hex(8),
            host=socket.gethostname(),
            threads=None,
        )
        (folder / worker.STOP).unlink(missing_ok=True)
        record.change(folder, state="running", message=None, plan=plan.as_json(), digests=found.digests)
        try:
            if alone.suffices(plan):
                _by_itself(plan)
            else:
                _on_ray(plan)
        except PtwError as error:
            if record.read(folder).state == "running":
                record.change(folder, state="failed", message=str(error))
            raise
        return _ended(record.read(folder))


def _ended(found: record.RunRecord) -> Path:
    again = f"`ptw train {found.recipe} --resume` goes on with it"
    if found.state == "stopped":
        sys.stderr.write(f"{found.name} is stopped and saved; {again}\n")
        raise KeyboardInterrupt
    message = found.message or "its workers ended without a word"
    if message.startswith("bug: "):
        raise RuntimeError(message.removeprefix("bug: "))
    if found.state != "done":
        raise PtwError(f"{found.name}: {message}")
    return found.folder


def _new(workspace: Workspace, recipe: str, overrides: Mapping[str, str]) -> record.RunRecord:
    plan = resolve(workspace, recipe, overrides)
    return record.create(workspace.root, recipe, **facts_of(plan))


def _resumed(workspace: Workspace, recipe: str, overrides: Mapping[str, str]) -> record.RunRecord:
    mine = [found for found in record.list_runs(workspace.root) if found.recipe == recipe]
    unfinished = [found for found in mine if found.state != "done"]
    if not unfinished:
        what = "its runs are all done" if mine else "it has no run"
        raise PtwError(f"recipe {recipe}: {what}; start one without --resume")
    found = unfinished[-1]
    old = Plan.from_json(found.plan)
    new = resolve(workspace, recipe, {**found.overrides, **overrides})
    changed = differences(old, new)
    digests = digests_of(new)
    others = [name for name in digests if digests[name] != found.digests.get(name)]
    mended = [name for name in others if name.startswith(f"{REWARD} ")]
    changed += [f"the content of {name}" for name in others if name not in mended]
    tokenizer = open_tokenizer(new.workspace(), new.tokenizer.name)
    changed += ["the tokenizer's ids"] if tokenizer.fingerprint != found.fingerprint else []
    if changed:
        raise PtwError(
            f"{found.name} cannot go on exactly, for this changed since it began:\n  "
            + "\n  ".join(changed)
            + "\nput it back, or start a new run without --resume"
        )
    alone = Ledger(found.folder, Group(0, 1, torch.device("cpu")))
    for name in mended:
        alone.say(f"{name} is another file than before: it judges from here on")
    return dataclasses.replace(found, plan=gone_on(old, new).as_json(), digests={**found.digests, **digests})


def _by_itself(plan: Plan) -> None:
    """One process of our own, with the same watch."""
    process = alone.Alone()
    with watching(plan.run_folder()) as watch:
        _watched(plan, watch, process.fit, end=process.kill)


def _on_ray(plan: Plan) -> None:
    """Ray Train, with a watch on the run's folder."""
    with ray_for(plan) as ours, watching(plan.run_folder()) as watch:
        if ours:
            plan = dataclasses.replace(plan, threads=threads_of(plan.cluster.workers))
        _watched(plan, watch, _fit, look=Room(plan).look)


def _watched(
    plan: Plan,
    watch: Watch,
    fit: Callable[[Plan, list[Exception]], None],
    end: Callable[[], None] = lambda: None,
    look: Callable[[], None] = lambda: None,
) -> None:
    """`fit` in a thread. A stop is asked for by a file, which workers look for; `end` ends them at once."""
    folder, outcome = plan.run_folder(), list[Exception]()
    thread = threading.Thread(target=fit, args=(plan, outcome), daemon=True)
    with tracked(folder, plan.tracking), _stop_on_signals(folder / worker.STOP, watch.console.print, end):
        thread.start()
        while thread.is_alive():
            watch.poll()
            look()
            thread.join(POLL_SECONDS)
    watch.poll()
    if outcome and record.read(folder).state == "running":
        raise outcome[0]


def _fit(plan: Plan, outcome: list[Exception]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cluster = plan.cluster
    gpus = cluster.gpus_per_worker
    resources = {"CPU": 1, **({"GPU": gpus} if gpus else {})}
    try:
        result = TorchTrainer(
            _on_worker,
            train_loop_config=plan.as_json(),
            scaling_config=ScalingConfig(
                num_workers=cluster.workers, use_gpu=gpus > 0, resources_per_worker=resources
            ),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            # the run itself says when another start is in vain, unless it can't even write that down
            run_config=RunConfig(
                name=plan.run_folder().name,
                storage_path=str(plan.run_folder() / ".ray"),
                failure_config=FailureConfig(max_failures=MOST_STARTS),
            ),
        ).fit()
        if isinstance(getattr(result, "return_value", None), str):
            outcome.append(_cannot(result.return_value))
    except Exception as error:
        outcome.append(_cannot(last_line(error)))


def _cannot(why: str) -> PtwError:
    return PtwError(f"Ray could not train: {why}")


def _on_worker(values: dict[str, Any]) -> str | None:
    """How it ended stands in the run's record; raising makes Ray end the other workers, who may wait.

    What comes back is why there is no record to say it in.
    """
    plan = Plan.from_json(values)
    if blind := worker.hosts_that_miss(plan.run_folder()):
        return (
            f"{plan.run_folder()} is not there on {', '.join(blind)}: all machines that train a run must see "
            "one folder; train on one machine, or put the workspace (a job's: clusters.<name>.folder) on a "
            "disk that they share"
        )
    _hear_sigterm()
    try:
        worker.work(plan, leaving=_is_told_to_go)
    except Exception:
        if plan.cluster.workers > 1 or record.read(plan.run_folder()).state == "running":
            raise
    return None


def _hear_sigterm() -> None:
    """Ray trains in a thread, and only the main one, in which an actor's own tasks run, hears signals."""
    import ray

    me = ray.get_runtime_context().current_actor
    ray.get(me.execute.remote(worker.hear_sigterm))


def _is_told_to_go() -> bool:
    """By SIGTERM, or because the cluster takes one of the run's machines away (Ray drains it)."""
    import ray.train

    drained = getattr(ray.train, "get_preemption_info", lambda: None)()  # older ones can't tell
    return worker.told_to_go.is_set() or drained is not None


@contextmanager
def _stop_on_signals(stop: Path, say: Callable[[str], None], end: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the workers to save and stop, the second ends all at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.exists():
            end()
            os._exit(130)  # the kernel ends our own Ray with us
        stop.touch()
        say("stopping after this step, with a checkpoint; once more ends at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
