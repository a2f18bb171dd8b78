"""How is a figure measured, shown and kept?"""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("ptw", "torch", "transformers", "ray", "tokenizers", "numpy")
THREADS = 2
Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Figure:
    name: str
    value: float | str
    unit: str = ""
    want: float | None = None
    better: Literal["less", "more"] = "less"

    @property
    def reached(self) -> bool | None:
        """Whether the wanted value was reached; None where none is wanted. NaN reaches nothing."""
        if self.want is None:
            return None
        value = float(self.value)
        return value <= self.want if self.better == "less" else value >= self.want


def publish(name: str, about: str, figures: Sequence[Figure]) -> None:
    """Prints the figures, and keeps them in results/<name>.json with the machine and the versions."""
    print(f"{name}: {about}")
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        sign = "<=" if figure.better == "less" else ">="
        want = "" if figure.want is None else f"   want {sign} {figure.want:g}: {figure.reached}"
        print(f"  {figure.name:<{width}}  {shown(figure.value)} {figure.unit}{want}", flush=True)
    kept = {
        "command": f"python -m benchmarks.{name}",
        "about": about,
        "machine": machine(),
        "versions": {package: version(package) for package in PACKAGES},
        "figures": [asdict(figure) | {"reached": figure.reached} for figure in figures],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def machine() -> dict[str, str | int]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count() or 0,
        "threads": int(os.environ.get("OMP_NUM_THREADS", THREADS)),
        "python": platform.python_version(),
    }


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class Kept:
    """Rows of a long benchmark, kept one by one in results/<name>.jsonl: it goes on where it ended."""

    def __init__(self, name: str) -> None:
        self._file = RESULTS / f"{name}.jsonl"

    def rows(self) -> list[Row]:
        if not self._file.exists():
            return []
        return [json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines()]

    def has(self, **about: str | int) -> bool:
        return any(about.items() <= row.items() for row in self.rows())

    def add(self, row: Row) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def two_threads() -> None:
    """Speeds are compared at two threads; the children of this process inherit it."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    torch.set_num_threads(THREADS)


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def memory_added(work: Callable[[], object]) -> float:
    """Gigabytes that this process's resident memory grows by while it works, at its most (Linux).

    Not ru_maxrss: a child begins with its parent's.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    start = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - start) * 1024 / 1e9


def peak_memory() -> float:
    """Gigabytes of this process's resident memory at its most, since it began its program (Linux)."""
    return _resident("VmHWM") * 1024 / 1e9


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def medians(
    works: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each, after one round that is not counted, in an order that turns every round.

    The machine's speed drifts: what is compared is measured side by side.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name in list(works) if number % 2 else list(works)[::-1]:
            took = seconds(works[name], clock)
            if number:
                taken[name].append(took)
    return {name: statistics.median(took) for name, took in taken.items()}


def real_data(name: str) -> Path:
    """The folder of a real data set. Ends the benchmark, saying so, where there is none."""
    root = Path(os.environ.get("PTW_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (root / name).exists():
        print(f"skipped: no {name} in {root}: set PTW_DATA to the folder of the real data", file=sys.stderr)
        sys.exit(0)
    return (root / name).resolve()
