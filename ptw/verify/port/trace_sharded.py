"""What does a port say when its model is spread over processes? Runs apart, in each of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

# what FSDP imports when it is first used: once here, and not in each process
import torch._dynamo
import torch.distributed.fsdp
from safetensors.torch import save_file
from torch import distributed

from ptw.ports.port import Port, find_port
from ptw.verify.port import trouble
from ptw.verify.port.sharded import ShardedPort
from ptw.verify.port.trace import await_cases, refuses
from ptw.verify.subject import Probe, Subject, ask, probes
from ptw.workspace import rooms

PATIENCE = timedelta(seconds=60)  # the others' next word takes no longer than a case does
TRIED = "tried"


def main(folders: dict[str, str]) -> None:
    """Ask the one port of folders["workspace"] every probe, case by case, all processes the same."""
    root, cases, output = (Path(folders[name]) for name in ("workspace", "cases", "output"))
    await_cases(folders)
    join()
    (file,) = (root / "models").glob("*.py")
    port = find_port(root, file.stem)
    assert port is not None
    asked = probes(rooms.python_files(Path(folders["verifiers"])))
    failed = ""
    for given in sorted(cases.iterdir()):
        target = output / given.name
        with contextlib.suppress(FileExistsError):
            target.mkdir()
        if failed:  # the processes no longer stand at the same place
            _say(target, f"not run: sharded, the port failed in {failed}")
            continue
        try:
            _trace_case(port, root, asked, given, target)
        except Exception as error:  # said in the report as this case's failure
            _say(target, f"sharded over two processes:\n{trouble.told(error, port.file)}")
            failed = given.name
    if not failed:
        distributed.barrier()
        distributed.destroy_process_group()


def join(patience: timedelta = PATIENCE) -> None:
    """The processes find each other through a file and speak over the loopback, which is all there is."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = f"file:///tmp/ptw-{os.environ['GROUP']}"
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=world, timeout=patience)


def _trace_case(port: Port, root: Path, asked: Mapping[str, Probe], given: Path, target: Path) -> None:
    if refuses(port, given, target):
        return

    def opened(folder: Path, dtype: torch.dtype, exactly: bool) -> Any:
        return ShardedPort(port, root, folder)

    found = ask(Subject(is_reference=False, given=given, opened=opened, handed=target), asked)
    if distributed.get_rank() == 0:
        save_file(found, target / "trace.safetensors")


def _say(target: Path, why: str) -> None:
    """The first to fail says why: the others fail for want of it."""
    with contextlib.suppress(FileExistsError), (target / "error").open("x") as file:
        file.write(why)
