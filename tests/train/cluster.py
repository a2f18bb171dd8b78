"""A Ray cluster of this machine's own: a head that computes nothing, and nodes that can be lost."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE_SECONDS = 180


@dataclass(frozen=True)
class Node:
    process: subprocess.Popen[bytes]

    def lose(self) -> None:
        """At once and with all that runs on it, as a machine is lost."""
        os.killpg(self.process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Cluster:
    address: str
    nodes: list[Node]

    def node_of(self, process: int) -> Node:
        """The one that this process runs on."""
        groups = {node.process.pid: node for node in self.nodes}
        while process not in groups:
            process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        return groups[process]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def running(nodes: int, environment: dict[str, str], within: Sequence[str] = ()) -> Iterator[Cluster]:
    """Each node is a group of processes, which ends when this does, and nobody else's.

    `within` is a command that starts another: what a node but the head is started by.
    """
    port, dashboard = free_port(), free_port()
    ray = str(Path(sys.executable).with_name("ray"))
    binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # a job's `python` is the cluster's
    environment = {**os.environ, **environment, "PATH": binaries, "RAY_AUTH_MODE": "disabled"}
    started: list[Node] = []
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:

        def start(*arguments: str) -> Node:
            # the agent, which takes the jobs, has one and the same port on each node unless it is told
            agent = f"--dashboard-agent-listen-port={free_port()}"
            command = [ray, "start", "--block", "--disable-usage-stats", agent, *arguments]
            command = command if "--head" in arguments else [*within, *command]
            with Path(folder, f"log-{len(started)}").open("wb") as log:
                process = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=folder
                )
            started.append(Node(process))
            wait_for("runtime started", Path(folder, f"log-{len(started) - 1}"))
            return started[-1]

        head = ("--head", f"--port={port}", f"--dashboard-port={dashboard}", "--include-dashboard=true")
        try:
            start(*head, "--num-cpus=0", f"--temp-dir={folder}/ray")
            workers = [start(f"--address=127.0.0.1:{port}", "--num-cpus=1") for _ in range(nodes)]
            yield Cluster(f"http://127.0.0.1:{dashboard}", workers)
        finally:
            for node in reversed(started):
                with contextlib.suppress(ProcessLookupError):
                    node.lose()
                node.process.wait()


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if text in log.read_text():
            return
        time.sleep(0.2)
    raise AssertionError(f"{text!r} was never said: {log.read_text()}")
