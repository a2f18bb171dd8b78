"""What does the reference say to each case? Asked in its own process, after every port's has ended."""

from __future__ import annotations

from functools import cache as once
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ptw.verify.reference import speed
from ptw.verify.reference.adapted import AdaptedReference
from ptw.verify.reference.model import ReferenceModel, opened_plainly, otherwise
from ptw.verify.subject import Probe, Subject, ask, probes


def answer(request: dict[str, Any]) -> None:
    """`given` by the verifiers' `probe`, or with `handed` what the port left, by their `reopen`.

    An answer is written to `write`; why there is none to the same name with .error, and fails its case only.
    """
    target = Path(request["write"])
    name = "reopen" if "handed" in request else "probe"
    subject = Subject(
        is_reference=True,
        given=Path(request["given"]),
        handed=Path(request.get("handed", request["given"])),
        opened=ReferenceModel,
        reopened=opened_plainly,
        adapting=AdaptedReference,
        other=otherwise,
        timing=speed.timed,
    )
    try:
        save_file(ask(subject, _probes(tuple(request["verifiers"]), name)), target)
    except Exception as error:
        target.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")


@once
def _probes(files: tuple[str, ...], name: str) -> dict[str, Probe]:
    return probes({Path(file).stem: Path(file) for file in files}, name)
