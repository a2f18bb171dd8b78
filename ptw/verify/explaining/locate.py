"""Where do a port and its reference first part? The module, and the position, in the order of execution.

A round of its own, after the verdict: the port is traced apart, and when its process has ended the reference.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ptw.verify import sandbox
from ptw.verify.cases import Reference
from ptw.verify.explaining import modules
from ptw.verify.port import trace
from ptw.verify.reports.report import Divergence, Heat, SubjectReport

AGREE = 1e-11  # relative, at a position: honest ones measure 1e-14
FLOOR = 1e-6  # of the largest position's norm: below it a difference is noise
COLUMNS, ROWS = 64, 80  # of a heat map
EXACT = 1e-6  # a limit below it is one of exact arithmetic
MOST_TRACED = 3
PROBE = Path(modules.__file__)
Event = tuple[int, str, str, str]  # document, given or gives, call, module


@dataclass(frozen=True)
class Traced:
    """A case on which both were traced."""

    case: str
    divergence: Divergence | None  # None: in every module that both have they agree
    heat: Heat | None


def locate(
    port: str,
    file: Path,
    given: Mapping[str, Path],
    drawn: Mapping[str, Mapping[str, Any]],
    folder: Path,
    reference: Reference,
    limits: sandbox.Limits | None = None,
) -> list[Traced]:
    """Trace the port's text `file` on the cases of `given` in its sandbox, then the reference; compare.

    `drawn` says what each case is for. A case that either side can't run is left out.
    """
    inputs = {name: folder / name for name in ("workspace", "verifiers", "cases", "gate")}
    for path in (*inputs.values(), folder / "answers"):
        path.mkdir(parents=True)
    (inputs["workspace"] / "models").mkdir()
    shutil.copyfile(file, inputs["workspace"] / "models" / f"{port}.py")
    shutil.copyfile(PROBE, inputs["verifiers"] / PROBE.name)
    for name, path in given.items():
        shutil.copytree(path, inputs["cases"] / name)
    (inputs["gate"] / trace.GO).touch()
    sandbox.run_apart("ptw.verify.port.trace", inputs, folder / "output", limits)
    ours = {name: folder / "output" / name / "trace.safetensors" for name in given}
    theirs = {name: folder / "answers" / f"{name}.safetensors" for name in given if ours[name].exists()}
    reference.answer(
        [
            {"given": str(given[name]), "write": str(path), "verifiers": [str(PROBE)]}
            for name, path in theirs.items()
        ]
    )
    found = []
    for name, path in theirs.items():
        config = json.loads((given[name] / "checkpoint" / "config.json").read_text())
        try:
            ours_read, theirs_read = (_read(one) for one in (ours[name], path))
        except (SafetensorError, OSError, ValueError):  # it can't be read, or was never written
            continue
        lengths = load_file(given[name] / "inputs.safetensors")["lengths"].tolist()
        found.append(compare(name, drawn[name], config, lengths, ours_read, theirs_read))
    return found


def to_trace(report: SubjectReport, drawn: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The failing cases that say most: those that change least; of a port that passes, its worst case."""
    limits = {(entry.verifier, entry.metric): entry.limit for entry in report.measured}
    exact = [
        (value / limits[verifier, metric], case)
        for verifier, metric, case, value in report.by_case
        if 0 < limits[verifier, metric] < EXACT and case in drawn
    ]
    if report.passed:
        return [max(exact)[1]] if exact else []
    failed = {
        case: len(drawn[case].get("changes") or {})
        for verifier, metric, case, value in report.by_case
        if not value <= limits[verifier, metric] and case in drawn
    }
    if not failed and exact:
        return [max(exact)[1]]
    in_exact = {case for share, case in exact if not share <= 1}
    return sorted(failed, key=lambda case: (case not in in_exact, failed[case], case))[:MOST_TRACED]


def compare(
    case: str,
    drawn: Mapping[str, Any],
    config: Mapping[str, Any],
    lengths: Sequence[int],
    ours: Mapping[Event, Tensor],
    theirs: Mapping[Event, Tensor],
) -> Traced:
    """Events that both have, in the reference's order; of the documents that differ the longest."""
    errors: dict[int, dict[Event, Tensor]] = {}
    for event, expected in theirs.items():
        if event in ours:
            error_T = relative(ours[event], expected, lengths[event[0]])
            if error_T is not None:
                errors.setdefault(event[0], {})[event] = error_T
    if not errors:
        return Traced(case, None, None)
    # one whose logits differ before one in which nothing comes of it; the longest shows best from where on
    number = max(errors, key=lambda number: (*_parted(errors[number]), lengths[number], -number))
    first = next((at for at in errors[number].items() if _differs(at[1]).any()), None)
    heat = _heat(case, errors[number], lengths[number])
    if first is None:
        return Traced(case, None, heat)
    event, error_T = first
    differs = _differs(error_T).nonzero().flatten()
    changes = tuple(str(name) for name in drawn.get("changes") or {})
    return Traced(
        case,
        Divergence(
            case=case,
            changes=changes,
            module=event[3],
            event="given" if event[1] == "given" else "gives",
            after=_before(errors[number], event),
            position=int(differs[0]),
            positions=len(differs),
            length=len(error_T),
            relative=float(error_T.nan_to_num(nan=torch.inf).max()),
            layer=_kind(event[3], config),
        ),
        heat,
    )


def relative(ours: Tensor, theirs: Tensor, length: int) -> Tensor | None:
    """(T,) differences, or (1,) of what has no positions; None where the two can't be laid side by side."""
    if ours.numel() != theirs.numel() or not ours.numel():
        return None
    first, second = _by_position(ours, length), _by_position(theirs, length)
    if first.shape != second.shape:
        return None
    norm_T = second.norm(dim=-1)
    return (first - second).norm(dim=-1) / norm_T.clamp(min=max(FLOOR * float(norm_T.max()), 1e-300))


def _by_position(tensor: Tensor, length: int) -> Tensor:
    """(T, everything else), wherever the positions stand; tokens first where they are flattened."""
    axes = [axis for axis in (1, 0, 2, 3) if axis < tensor.ndim and tensor.shape[axis] == length]
    if axes:
        return tensor.movedim(axes[0], 0).reshape(length, -1)
    return tensor.reshape(length, -1) if tensor.numel() % length == 0 else tensor.reshape(1, -1)


def _differs(error_T: Tensor) -> Tensor:
    return ~(error_T <= AGREE)  # so that NaN differs


def _parted(errors: Mapping[Event, Tensor]) -> tuple[bool, bool]:
    """Whether its logits differ, and whether anything does."""
    differ = {event[3] for event, error_T in errors.items() if bool(_differs(error_T).any())}
    return modules.LOGITS in differ, bool(differ)


def _before(errors: Mapping[Event, Tensor], event: Event) -> str:
    """The module that last gave what it should."""
    gave = [one for one in list(errors)[: list(errors).index(event)] if one[1] == "gives"]
    return gave[-1][3] if gave else ""


def _kind(module: str, config: Mapping[str, Any]) -> str:
    number = next((int(part) for part in module.split(".") if part.isdigit()), None)
    kinds = config.get("layer_types")
    if number is None or not isinstance(kinds, list) or number >= len(kinds):
        return ""
    return str(kinds[number])


def _heat(case: str, errors: Mapping[Event, Tensor], length: int) -> Heat:
    gives = {
        event[3] if event[2] == "0" else f"{event[3]} (call {int(event[2]) + 1})": error_T
        for event, error_T in errors.items()
        if event[1] == "gives" and len(error_T) == length
    }
    width = -(-length // COLUMNS)
    starts = tuple(range(0, length, width))
    values = [
        tuple(float(part.nan_to_num(nan=torch.inf).max()) for part in error_T.split(width))
        for error_T in list(gives.values())[:ROWS]
    ]
    return Heat(case, tuple(list(gives)[:ROWS]), starts, length, tuple(values))


def _read(file: Path) -> dict[Event, Tensor]:
    return dict(_events(load_file(file)))


def _events(tensors: Mapping[str, Tensor]) -> Iterator[tuple[Event, Tensor]]:
    prefix = f"{PROBE.stem}/"
    for name in sorted(name for name in tensors if name.startswith(prefix)):
        document, _, event, call, module = name.removeprefix(prefix).split("/", 4)
        yield (int(document), event, call, module), tensors[name].double()
