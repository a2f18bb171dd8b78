"""Which Ray does a run train on, and has it room?"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from ptw.errors import PtwError
from ptw.train.group import Group
from ptw.train.ledger import Ledger
from ptw.train.plan import Plan

REACH_SECONDS = 5.0
ROOM_SECONDS = 10.0  # between looks at whether the cluster still has room
HEALTH_SECONDS = "0.5"  # between Ray's looks at its workers: also how fast a lost one is noticed
# of our own Ray: each process that it starts beside a run wakes a hundred times a second
LEAN = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody drains this node
}
QUIET = ("ray", "ray.train", "ray.data", "ray.tune", "ray._private")


@contextmanager
def ray_for(plan: Plan) -> Iterator[bool]:
    """A Ray to train on: one that this process is connected to, the cluster's, or our own; True: our own."""
    address = plan.cluster.address
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_SECONDS)
    if address is None:
        os.environ.update({key: value for key, value in LEAN.items() if key not in os.environ})
        if "RAY_AUTH_MODE" not in os.environ:  # nobody else is to talk to our Ray
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        _demand_room(plan, ray.cluster_resources())
        yield address is None
        return
    if address is not None:
        demand_reachable(address)
    cpus = None if address else max(plan.cluster.workers, os.cpu_count() or 1)
    try:
        ray.init(
            address=address or "local",
            num_cpus=cpus,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError, TimeoutError, SystemExit) as error:
        where = f"cluster {plan.cluster.name}: no Ray at {address}" if address else "a local Ray cannot start"
        hint = "check the address" if address else "is a port that Ray is told to use taken?"
        raise PtwError(f"{where}: {last_line(error)}; {hint}") from error
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        _demand_room(plan, ray.cluster_resources())
        yield address is None
    finally:
        ray.shutdown()  # our connection, and our own Ray: never anybody else's


def demand_reachable(address: str) -> None:
    """Ray itself tries for two minutes and then ends the process."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise PtwError(
            f"workspace.toml: no Ray cluster answers at {address}: {error.strerror or error}; start it "
            "(`ray start --head`), correct `address`, or leave it out to train on this machine"
        ) from error


def _demand_room(plan: Plan, there: Mapping[str, float]) -> None:
    short = _short_of(plan, there)
    if short is not None:
        raise PtwError(
            f"cluster {plan.cluster.name}: {short}; lower `workers` or `gpus_per_worker`, or add machines"
        )


class Room:
    """Says so where the cluster has no room any more: Ray waits, for as long as it takes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._next = time.monotonic() + ROOM_SECONDS
        self._short: str | None = None

    def look(self) -> None:
        """An event, the first time of several; asks Ray every so often only."""
        import ray

        if time.monotonic() < self._next:
            return
        before, self._short = self._short, _short_of(self._plan, ray.cluster_resources())
        self._next = time.monotonic() + ROOM_SECONDS
        if self._short is not None and before is None:
            first = Group(0, 1, torch.device("cpu"))
            Ledger(self._plan.run_folder(), first).say(f"waiting for machines: {self._short}")


def _short_of(plan: Plan, there: Mapping[str, float]) -> str | None:
    cluster = plan.cluster
    needed = {"CPU": float(cluster.workers), "GPU": cluster.workers * cluster.gpus_per_worker}
    for kind, count in needed.items():
        if count > there.get(kind, 0):
            return f"{cluster.workers} workers need {count:g} {kind}s, and Ray has {there.get(kind, 0):g}"
    return None


def threads_of(workers: int) -> int:
    """Of each worker on this machine: they share its cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else max(1, (os.cpu_count() or 1) // workers)


def last_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[-1] if text else type(error).__name__
