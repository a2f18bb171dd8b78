"""How long does the command line take to answer?"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Figure, publish, seconds

ROUNDS = 10


def main() -> None:
    command = Path(sys.executable).parent / "ptw"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([command, "init", "catalogue"], cwd=folder, check=True, capture_output=True)
        root = Path(folder) / "catalogue"
        figures = [
            Figure("ptw --help", median([command, "--help"], root), "s", want=0.3),
            Figure("ptw check, a new workspace", median([command, "check"], root), "s", want=0.6),
        ]
    publish("help_and_check", f"median of {ROUNDS}, whole processes, from a warm disk", figures)


def median(command: list[Path | str], folder: Path) -> float:
    def work() -> None:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, env=dict(os.environ))

    work()
    return statistics.median(seconds(work) for _ in range(ROUNDS))


if __name__ == "__main__":
    main()
