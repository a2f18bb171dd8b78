"""What does a port say to each case? Runs apart, where the reference is not (see `sandbox`)."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from ptw.errors import PtwError
from ptw.ports.export import export
from ptw.ports.load import load
from ptw.ports.port import Port, find_port
from ptw.verify.port import speed, trouble
from ptw.verify.port.adapted import AdaptedPort
from ptw.verify.port.model import PortModel
from ptw.verify.subject import Probe, Subject, Tensors, ask, probes
from ptw.workspace import rooms

GO = "go"  # stands in folders["gate"] once the cases are drawn
POLL_SECONDS = 0.02


def main(folders: dict[str, str]) -> None:
    """Ask the one port of folders["workspace"] every probe on the cases that nobody else has begun."""
    root, cases, output = (Path(folders[name]) for name in ("workspace", "cases", "output"))
    await_cases(folders)
    (file,) = (root / "models").glob("*.py")
    port = find_port(root, file.stem)
    assert port is not None
    asked = probes(rooms.python_files(Path(folders["verifiers"])))
    heavy_first = sorted(cases.iterdir(), key=lambda given: -(given / "inputs.safetensors").stat().st_size)
    for given in heavy_first:
        target = output / given.name
        try:
            target.mkdir()
        except FileExistsError:  # another process of this port has it
            continue
        try:
            _trace_case(port, root, asked, given, target)
        except Exception as error:  # said in the report as this case's failure
            (target / "error").write_text(trouble.told(error, port.file))


def await_cases(folders: Mapping[str, str]) -> None:
    """Until they are drawn. A process starts before: importing takes as long as drawing."""
    while not (Path(folders["gate"]) / GO).exists():
        time.sleep(POLL_SECONDS)


def _trace_case(port: Port, root: Path, asked: Mapping[str, Probe], given: Path, target: Path) -> None:
    if not refuses(port, given, target):
        save_file(trace(port, root, asked, given, target), target / "trace.safetensors")


def refuses(port: Port, given: Path, target: Path) -> bool:
    """Whether the port does not take the case's configuration; what it says of it is written to `target`."""
    values = json.loads((given / "checkpoint" / "config.json").read_text())
    try:
        port.Config.from_hf(values)
    except PtwError as refusal:
        (target / "refused").write_text(str(refusal))
        return True
    return False


def trace(port: Port, root: Path, asked: Mapping[str, Probe], given: Path, target: Path) -> Tensors:
    """What the port says to a case: VERIFIER/NAME -> tensor. `target` takes what the reference is to open."""
    return ask(subject_of(port, root, given, target), asked)


def subject_of(port: Port, root: Path, given: Path, target: Path) -> Subject:
    """A case as a port answers it."""

    def opened(folder: Path, dtype: torch.dtype, exactly: bool) -> PortModel:
        return PortModel(port, root, folder, dtype, exactly)

    def written(folder: Path, to: Path) -> None:
        export(load(folder, root, port=port.model_type), to)

    def adapting(checkpoint: Path, folder: Path) -> AdaptedPort:
        return AdaptedPort(port, root, checkpoint, folder)

    return Subject(
        is_reference=False,
        given=given,
        opened=opened,
        handed=target,
        written=written,
        adapting=adapting,
        timing=functools.partial(speed.timed, root),
    )
