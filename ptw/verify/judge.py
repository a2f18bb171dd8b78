"""Is what the port said what the reference says? Looks at tensors only; neither of the two runs here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ptw.errors import PtwError
from ptw.verify import refusals
from ptw.verify.reports.report import Measured, SubjectReport
from ptw.workspace import rooms

Tensors = dict[str, Tensor]
MOST_SAID = 5  # explanations of one verifier for one case
TEXT_LIMIT = 2000  # characters of what a port may say for itself
EXPORTED = {"config.json", "model.safetensors.index.json"}
WRITTEN = {"trace.safetensors", "export", "adapter", "error", "refused"}
LEVELS = ("practice", "acceptance")
DRAWN = "drawn"
SUBJECTS = ("port", "tokenizer")  # what a verifier verifies
KINDS = (DRAWN, "speed", "checkpoint")  # of cases; those that are not drawn are in `extra_cases`


@dataclass(frozen=True)
class Verifier:
    """A file of the room. Of a port `probe` and `reopen` of the file run elsewhere (see `subject`)."""

    name: str
    file: Path
    limits: Mapping[str, float]
    measure: Callable[[Any, Any], dict[str, float]]  # of tensors, or of a tokenizer's sides' answers
    explain: Callable[[Tensors, Tensors], list[str]] | None = None
    workers: int = 1  # processes that its probe runs in at once, the model sharded over them
    alone: bool = False  # nothing else runs meanwhile: it takes times
    levels: tuple[str, ...] = LEVELS
    cases: str = DRAWN  # the kind of cases that it is asked about
    applies: Callable[[str, Any], bool] = lambda metric, theirs: True  # is a metric to be had of a case?
    subject: str = SUBJECTS[0]
    probe: Callable[[Any, Any], dict[str, Any]] | None = None


@dataclass(frozen=True)
class CaseFiles:
    """Where a case's parts lie: what was given, what it is for, what the port and the reference said."""

    name: str
    given: Path
    drawn: Path
    ours: tuple[Path, ...]  # a folder a pass
    answer: Path  # files
    reopened: Path
    source: Path  # the port's text
    kind: str = DRAWN


def read_verifiers(files: Mapping[str, Path], subject: str = SUBJECTS[0]) -> list[Verifier]:
    """Those that verify ports, or tokenizers.

    PtwError names the file that has no LIMITS or no measure: a gate that measures nothing is no pass.
    """
    read = [_read_verifier(name, path) for name, path in files.items()]
    found = [verifier for verifier in read if verifier.subject == subject]
    if not found:
        raise PtwError("no verifiers: a gate without them would pass anything; reinstall ptw")
    return found


def asked_for(verifiers: Sequence[Verifier], only: Sequence[str]) -> list[Verifier]:
    """Those of these names, or all where none is named; PtwError for a name that none bears."""
    known = [verifier.name for verifier in verifiers]
    for name in set(only) - set(known):
        raise PtwError(f"verify: no verifier {name!r} at this level; there are: {', '.join(known)}")
    return [verifier for verifier in verifiers if not only or verifier.name in only]


def _read_verifier(name: str, path: Path) -> Verifier:
    module = rooms.load(path)
    limits, measure = getattr(module, "LIMITS", None), getattr(module, "measure", None)
    if not isinstance(limits, dict) or not limits:
        raise PtwError(f"{path}: LIMITS must name at least one metric and its largest accepted value")
    if not callable(measure):
        raise PtwError(f"{path}: it has no measure(ours, theirs), which gives a value for each limit")
    for metric, limit in limits.items():
        if not isinstance(limit, float | int) or math.isnan(limit):
            raise PtwError(f"{path}: LIMITS[{metric!r}] = {limit!r}: a limit is a number")
    workers, levels = getattr(module, "WORKERS", 1), tuple(getattr(module, "LEVELS", LEVELS))
    if not isinstance(workers, int) or workers not in (1, 2):
        raise PtwError(f"{path}: WORKERS = {workers!r}: a probe runs in 1 process or in 2")
    if not levels or not set(levels) <= set(LEVELS):
        raise PtwError(f"{path}: LEVELS = {levels!r}: it takes {' and '.join(LEVELS)}")
    cases, alone = getattr(module, "CASES", DRAWN), bool(getattr(module, "ALONE", False))
    if cases not in KINDS or (alone and cases == DRAWN):
        raise PtwError(
            f"{path}: CASES = {cases!r}: it takes {', '.join(KINDS)}; ALONE is for those not drawn"
        )
    subject = getattr(module, "SUBJECT", SUBJECTS[0])
    if subject not in SUBJECTS:
        raise PtwError(f"{path}: SUBJECT = {subject!r}: it takes {' or '.join(SUBJECTS)}")
    probe = getattr(module, "probe", None)
    if subject == "tokenizer" and not callable(probe):
        raise PtwError(f"{path}: it has no probe(side, inputs), which says what a side is asked")
    return Verifier(
        name,
        path,
        dict(limits),
        measure,
        getattr(module, "explain", None),
        workers,
        alone,
        levels,
        cases,
        getattr(module, "applies", Verifier.applies),
        subject,
        probe,
    )


def judge(port: str, cases: Iterable[CaseFiles], verifiers: Iterable[Verifier]) -> SubjectReport:
    """Every case by every verifier; the worst value of each metric stands in the report."""
    cases, verifiers = list(cases), list(verifiers)
    failures = [] if cases else ["no cases were drawn for it"]
    refused: dict[str, tuple[CaseFiles, str]] = {}
    explained: list[str] = []
    values: dict[tuple[str, str], list[tuple[float, str]]] = {}
    wanted: dict[str, set[str]] = {}
    for case in cases:
        try:
            tensors = _read(case, refused)
        except PtwError as failure:
            failures.append(f"{case.name}: {failure}")
            continue
        for verifier in verifiers if tensors is not None else ():
            if verifier.cases != case.kind:
                continue
            ours, theirs = (of_verifier(said, verifier.name) for said in tensors or ())
            try:
                found = measure(verifier, ours, theirs)
            except PtwError as failure:
                failures.append(f"{case.name}: {failure}")
                continue
            metrics = {metric for metric in verifier.limits if verifier.applies(metric, theirs)}
            wanted.setdefault(verifier.name, set()).update(metrics)
            for metric, value in found.items():
                values.setdefault((verifier.name, metric), []).append((value, case.name))
            if any(not value <= verifier.limits[metric] for metric, value in found.items()):
                explained += _explained(verifier, case.name, ours, theirs)
    failures += refusals.evasions(refused)
    measured, by_case = [], []
    not_run = [name for name, metrics in wanted.items() if not metrics]
    for verifier in (one for one in verifiers if one.name not in not_run):
        for metric, limit in verifier.limits.items():
            worst = values.get((verifier.name, metric))
            if worst:
                value, name = max(worst, key=lambda entry: (math.isnan(entry[0]), entry[0]))
                measured.append(Measured(verifier.name, metric, value, float(limit), name))
                by_case += [(verifier.name, metric, name, value) for value, name in worst]
            elif not failures and metric in wanted.get(verifier.name, verifier.limits):
                failures.append(f"{verifier.name}: a limit without a value: no case gave {metric!r}")
    return SubjectReport(
        port,
        tuple(measured),
        tuple(failures),
        tuple(f"{name}: {said}" for name, (case, said) in refused.items() if not refusals.is_wanted(case)),
        len(cases),
        tuple(by_case),
        tuple(explained),
        not_run=tuple(f"{name} was not run: nothing of this family concerns it" for name in not_run),
    )


def _explained(verifier: Verifier, case: str, ours: Tensors, theirs: Tensors) -> list[str]:
    if verifier.explain is None:
        return []
    said = verifier.explain(ours, theirs)
    more = [f"and {len(said) - MOST_SAID} more"] if len(said) > MOST_SAID else []
    return [f"{verifier.name}, case {case}: {text}" for text in said[:MOST_SAID] + more]


def measure(verifier: Verifier, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
    """Its values, each of which has a limit; PtwError for a fault of the verifier."""
    try:
        found = verifier.measure(dict(ours), dict(theirs))
        values = {metric: float(value) for metric, value in found.items()}
    except Exception as error:
        raise PtwError(f"verifier {verifier.name} failed: {type(error).__name__}: {error}") from error
    for metric in values:
        if metric not in verifier.limits:
            raise PtwError(f"verifier {verifier.name}: a metric without a limit: LIMITS lacks {metric!r}")
    return values


def _read(case: CaseFiles, refused: dict[str, tuple[CaseFiles, str]]) -> tuple[Tensors, Tensors] | None:
    """What both said; None for a rightful refusal; PtwError for what the port should not have written."""
    ours: Tensors = {}
    for folder in case.ours:
        written = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if "error" in written:
            error = _text(folder / "error")
            if refusals.is_turned_down(case, error):
                return None
            raise PtwError(f"the port failed:\n{error}")
        if "refused" in written:
            refused[case.name] = (case, refusals.rightful(case, _text(folder / "refused")))
            return None
        refusals.demand(case)
        ours |= port_said(folder)
    theirs = reference_said(case)
    compare_shapes(ours, theirs)
    return ours | {"/source": source_of(case)}, theirs


def port_said(folder: Path) -> Tensors:
    """The trace, and the tensors of the export if there is one; PtwError for anything else that it wrote."""
    written = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "trace.safetensors" not in written or written - WRITTEN:
        extra = ", ".join(sorted(written - WRITTEN))
        raise PtwError(f"the port wrote what it should not: {extra}" if extra else "the port wrote nothing")
    exported = {f"weights/exported.{key}": tensor for key, tensor in _exported(folder / "export").items()}
    return _tensors(folder / "trace.safetensors") | exported


def reference_said(case: CaseFiles) -> Tensors:
    """Its answers, and what was given."""
    theirs = _said(case.answer)
    if case.reopened.exists() or case.reopened.with_suffix(".error").exists():
        theirs |= _said(case.reopened)
    given = load_file(case.given / "inputs.safetensors")
    drawn = case.kind == DRAWN  # others are too large, or have none
    weights = load_file(case.given / "checkpoint" / "model.safetensors") if drawn else {}
    given |= {f"weights.{key}": tensor for key, tensor in weights.items()}
    return theirs | {f"/given.{name}": tensor for name, tensor in given.items()}


def source_of(case: CaseFiles) -> Tensor:
    """The port's text as bytes."""
    return torch.frombuffer(bytearray(case.source.read_bytes()), dtype=torch.uint8)


def _exported(folder: Path) -> Tensors:
    """The tensors of the port's export, if it made one."""
    if not folder.is_dir():
        return {}
    odd = {path.name for path in folder.iterdir() if not path.name.endswith(".safetensors")} - EXPORTED
    if odd:
        raise PtwError(f"the port's export holds what no checkpoint does: {', '.join(sorted(odd))}")
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= _tensors(file)
    return found


def of_verifier(tensors: Tensors, name: str) -> Tensors:
    """What concerns one verifier: its own probe's tensors, and what all may see."""
    own = {
        key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")
    }
    return own | {key[1:]: value for key, value in tensors.items() if key.startswith("/")}


def _said(file: Path) -> Tensors:
    error = file.with_suffix(".error")
    if error.exists():
        raise PtwError(f"the reference can't run it: {_text(error)}")
    if not file.exists():
        raise PtwError("the reference gave no answer")
    return load_file(file)


def compare_shapes(ours: Tensors, theirs: Tensors) -> None:
    """Shapes, dtypes and finite numbers, before any verifier sees them."""
    for name, tensor in ours.items():
        expected = theirs.get(name, tensor)
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            found, wanted = (f"{tuple(one.shape)} {one.dtype}" for one in (tensor, expected))
            raise PtwError(f"{name} is {found}, the reference's {wanted}")
        if not name.startswith("weights/exported.") and not bool(torch.isfinite(tensor).all()):
            raise PtwError(f"{name} holds NaN or infinity")


def _tensors(file: Path) -> Tensors:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise PtwError(f"{file.name} that the port wrote can't be read: {error}") from error


def _text(file: Path) -> str:
    with file.open(errors="replace") as stream:
        return stream.read(TEXT_LIMIT)
