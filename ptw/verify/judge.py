"""Is what the port said what the reference says? Looks at tensors only; neither of the two runs here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ptw.errors import PtwError
from ptw.verify.report import Measured, PortReport
from ptw.workspace import rooms

Tensors = dict[str, Tensor]
BACKENDS = ("dense", "documents")
TEXT_LIMIT = 2000  # characters of what a port may say for itself
EXPORTED = {"config.json", "model.safetensors.index.json"}
WRITTEN = {"trace.safetensors", "export", "error", "refused"}


@dataclass(frozen=True)
class Verifier:
    name: str
    limits: Mapping[str, float]
    measure: Callable[[Tensors, Tensors], dict[str, float]]


@dataclass(frozen=True)
class CaseFiles:
    """Where a case's parts lie: what was given, what it is for, what the port and the reference said."""

    name: str
    given: Path
    drawn: Path
    ours: Path  # a folder
    reference: Path  # files
    export: Path


def read_verifiers(files: Mapping[str, Path]) -> list[Verifier]:
    """PtwError names the file that has no LIMITS or no measure: a gate that measures nothing is no pass."""
    found = []
    for name, path in files.items():
        module = rooms.load(path)
        limits, measure = getattr(module, "LIMITS", None), getattr(module, "measure", None)
        if not isinstance(limits, dict) or not limits:
            raise PtwError(f"{path}: LIMITS must name at least one metric and its largest accepted value")
        if not callable(measure):
            raise PtwError(f"{path}: it has no measure(ours, theirs), which gives a value for each limit")
        for metric, limit in limits.items():
            if not isinstance(limit, float | int) or math.isnan(limit):
                raise PtwError(f"{path}: LIMITS[{metric!r}] = {limit!r}: a limit is a number")
        found.append(Verifier(name, dict(limits), measure))
    if not found:
        raise PtwError("no verifiers: a gate without them would pass anything; reinstall ptw")
    return found


def judge(port: str, cases: Iterable[CaseFiles], verifiers: Iterable[Verifier]) -> PortReport:
    """Every case by every verifier; the worst value of each metric stands in the report."""
    cases, verifiers = list(cases), list(verifiers)
    failures = [] if cases else ["no cases were drawn for it"]
    refused: list[str] = []
    values: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for case in cases:
        try:
            tensors = _read(case, refused)
            if tensors is None:
                continue
            for verifier in verifiers:
                for metric, value in _measure(verifier, *tensors).items():
                    values.setdefault((verifier.name, metric), []).append((value, case.name))
        except PtwError as failure:
            failures.append(f"{case.name}: {failure}")
    measured = []
    for verifier in verifiers:
        for metric, limit in verifier.limits.items():
            found = values.get((verifier.name, metric))
            if found:
                worst, case_name = max(found, key=lambda entry: (math.isnan(entry[0]), entry[0]))
                measured.append(Measured(verifier.name, metric, worst, float(limit), case_name))
            elif not failures:
                failures.append(f"{verifier.name}: a limit without a value: no case gave {metric!r}")
    return PortReport(port, tuple(measured), tuple(failures), tuple(refused), len(cases))


def _measure(verifier: Verifier, ours: Tensors, theirs: Tensors) -> dict[str, float]:
    try:
        found = verifier.measure(dict(ours), dict(theirs))
        values = {metric: float(value) for metric, value in found.items()}
    except Exception as error:
        raise PtwError(f"verifier {verifier.name} failed: {type(error).__name__}: {error}") from error
    for metric in values:
        if metric not in verifier.limits:
            raise PtwError(f"verifier {verifier.name}: a metric without a limit: LIMITS lacks {metric!r}")
    return values


def _read(case: CaseFiles, refused: list[str]) -> tuple[Tensors, Tensors] | None:
    """What both said; None for a rightful refusal; PtwError for what the port should not have written."""
    written = {path.name for path in case.ours.iterdir()} if case.ours.is_dir() else set()
    if "error" in written:
        raise PtwError(f"the port failed:\n{_text(case.ours / 'error')}")
    if "refused" in written:
        refused.append(f"{case.name}: {_refusal(case)}")
        return None
    if written != {"trace.safetensors", "export"}:
        extra = ", ".join(sorted(written - WRITTEN))
        raise PtwError(f"the port wrote what it should not: {extra}" if extra else "the port wrote nothing")
    exports = {path.name for path in (case.ours / "export").iterdir()}
    if odd := {name for name in exports if not name.endswith(".safetensors")} - EXPORTED:
        raise PtwError(f"the port's export holds what no checkpoint does: {', '.join(sorted(odd))}")
    theirs = _reference(case.reference)
    ours = _tensors(case.ours / "trace.safetensors")
    _compare_shapes(ours, theirs)
    exported = _reference(case.export)
    ours |= {"export.logits": exported["export.logits"], "export.problems": exported["export.problems"]}
    for file in sorted((case.ours / "export").glob("*.safetensors")):
        ours |= {f"weights.{key}": tensor for key, tensor in _tensors(file).items()}
    return ours, theirs | {"export.logits": exported["original.logits"]} | given_tensors(case.given)


def given_tensors(given: Path) -> Tensors:
    inputs = load_file(given / "inputs.safetensors")
    lengths = inputs["lengths"]
    weights = load_file(given / "checkpoint" / "model.safetensors")
    return {
        "documents": torch.repeat_interleave(torch.arange(len(lengths)), lengths),
        "changed_document": inputs["changed_document"],
        **{f"weights.{key}": tensor for key, tensor in weights.items()},
    }


def _refusal(case: CaseFiles) -> str:
    """The refusal's text, if it names a field that the case changed; else refusing is failing."""
    message = _text(case.ours / "refused")
    changes = json.loads(case.drawn.read_text())["changes"]
    if not any(name in message for name in _names(changes)):
        said = f"it refused a configuration without naming what it does not implement: {message}"
        raise PtwError(said if changes else f"it refused the family's plain configuration: {message}")
    return message


def _names(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield str(key)
            yield from _names(entry)


def _reference(file: Path) -> Tensors:
    said = file.with_suffix(".error")
    if said.exists():
        raise PtwError(f"the reference can't run it: {_text(said)}")
    if not file.exists():
        raise PtwError("the reference gave no answer")
    return load_file(file)


def _compare_shapes(ours: Tensors, theirs: Tensors) -> None:
    """Names, shapes, dtypes and finite numbers, before any verifier sees them."""
    expected = {name: tensor for name, tensor in theirs.items() if not name.endswith(".gap")}
    for backend in BACKENDS:
        expected |= dict.fromkeys((f"packed.{backend}.logits", f"changed.{backend}.logits"), theirs["logits"])
    if odd := set(expected) ^ set(ours):
        verb = "lacks" if odd <= set(expected) else "should not hold"
        raise PtwError(f"the port's trace {verb} {', '.join(sorted(odd))}")
    for name, tensor in ours.items():
        shape, dtype = tuple(expected[name].shape), expected[name].dtype
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise PtwError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, the reference's {shape} {dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise PtwError(f"{name} holds NaN or infinity")


def _tensors(file: Path) -> Tensors:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise PtwError(f"{file.name} that the port wrote can't be read: {error}") from error


def _text(file: Path) -> str:
    with file.open(errors="replace") as stream:
        return stream.read(TEXT_LIMIT)
