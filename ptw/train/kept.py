"""What is computed of each sample once, before training, and kept in the run's folder?"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ptw.data.pack import PackedRow
from ptw.errors import PtwError
from ptw.evals.rows import Forward, dealt, forward_of, groups
from ptw.runs.record import write_json
from ptw.train.count import Stopped

if TYPE_CHECKING:
    from ptw.train.run import Run

FOLDER = "kept"
DONE = "done.json"
PART_BYTES = 2**26  # of values, and of what a file's head says of each: safetensors reads no larger head
HEAD_BYTES = 100  # of a tensor, beside its name
SAID_EVERY = 30.0  # seconds

Values = dict[str, Tensor]  # of one sample, by name


class Kept:
    """By sample; read from the disk when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for path in sorted(folder.glob("*.safetensors")):
            part = safe_open(path, framework="pt")
            for key in part.keys():  # noqa: SIM118 (it is no dict)
                name, _, sample = key.partition("\t")
                self._where[sample][name] = part

    def __contains__(self, sample: str) -> bool:
        return sample in self._where

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, sample: str) -> Values:
        if sample not in self._where:
            hint = "start a new run, or remove the folder to compute it again"
            raise PtwError(f"{self.folder}: {sample} is not among the {len(self):,} samples there; {hint}")
        return {name: part.get_tensor(f"{name}\t{sample}") for name, part in self._where[sample].items()}


def kept(run: Run, name: str, of: Callable[[Forward], dict[str, Values]]) -> Kept:
    """What `of` says of every sample that training or measuring will meet, computed by all workers.

    A run that is stopped meanwhile goes on where it was; one that goes on later reads what is there. The
    values of a sample are written with its name: a row of samples that are all there is not computed again.
    """
    folder = run.plan.run_folder() / FOLDER / name
    if not run.group.shared((folder / DONE).is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        run.ledger.say(f"what the {name} says of all samples is computed, once")
        _compute(run, folder, name, of)
        if run.group.first:
            write_json(folder / DONE, {"samples": len(Kept(folder))})
        run.group.wait()
    found = Kept(folder)
    run.ledger.say(f"what the {name} says of {len(found):,} samples is in {FOLDER}/{name}")
    return found


@torch.no_grad()
def _compute(run: Run, folder: Path, name: str, of: Callable[[Forward], dict[str, Values]]) -> None:
    group, known = run.group, Kept(folder)
    part, computed, said = _Part(folder, group.rank), 0, time.monotonic()
    group.wait()  # all know the same
    rows = (row for row in run.rows_ahead() if not all(sample in known for sample in row.samples))
    for together in _passes(run, rows):
        if group.sum(float(run.is_asked_to_stop()))[0]:
            part.write()
            raise Stopped
        found = of(forward_of(dealt(together, group.data_rank, group.data_world), group.device))
        part.add(found if group.answers else {})
        computed += sum(len(row.samples) for row in together)
        if time.monotonic() > said + SAID_EVERY:
            said = time.monotonic()
            run.ledger.say(f"what the {name} says of {computed:,} samples is computed")
    part.write()
    group.wait()


def _passes(run: Run, rows: Iterator[PackedRow]) -> Iterator[list[PackedRow]]:
    return groups(rows, run.settings.rows_at_once * run.group.data_world)


class _Part:
    """Values that are not on the disk yet; files that are there are whole."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._tensors: Values = {}
        self._bytes = 0

    def add(self, values: dict[str, Values]) -> None:
        for sample, tensors in values.items():
            for name, tensor in tensors.items():
                key = f"{name}\t{sample}"
                self._tensors[key] = tensor.detach().cpu().contiguous()
                self._bytes += tensor.nbytes + len(key) + HEAD_BYTES
        if self._bytes > PART_BYTES:
            self.write()

    def write(self) -> None:
        if self._tensors:
            number = len(list(self._folder.glob(f"{self._rank:05d}-*.safetensors")))
            target = self._folder / f"{self._rank:05d}-{number:05d}.safetensors"
            aside = target.with_suffix(".writing")
            save_file(self._tensors, aside)
            aside.rename(target)
            self._tensors, self._bytes = {}, 0
