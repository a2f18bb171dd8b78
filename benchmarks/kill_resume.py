"""Does a run whose processes are killed again and again end as the undisturbed one, bit for bit?

Two workers, started anew each time: most without Ray, by a process that has imported all, some by Ray.
`python -m benchmarks.kill_resume KILLS RAY_KILLS` makes do with fewer.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

from benchmarks.report import Figure, publish
from benchmarks.workspaces import command, environment, ptw

Moment = Literal["any time", "after a step", "while it saves"]
MOMENTS: tuple[Moment, ...] = ("any time", "after a step", "while it saves")
KILLS, RAY_KILLS = 100, 6
TOGETHER = 0.4  # of the kills hit all at once, as a lost machine does; of Ray's: the driver
EPOCHS = 2
SEED = 0
MOST_SECONDS = 3.0  # of a kill at any time, after the one before
MOST_STEPS = 9
SAVING_SECONDS = 0.03  # after files of a checkpoint appear
GRACE_SECONDS = 1.0  # of a worker that has lost the other one
WAIT_SECONDS = 400.0
TOML = f"""
[workspace]
name = "kills"

[models.small.config]
model_type = "llama"
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 512

[tokenizers.titles]
items = "data/items.jsonl"

[datasets.viewings]
source = "data/viewings.jsonl"
format = "event"
too_long = "truncate"

[clusters.pair]
workers = 2

[recipes.next-title]
recipe = "pretrain"
model = "small"
tokenizer = "titles"
dataset = "viewings"
cluster = "pair"

[recipes.next-title.settings]
epochs = {EPOCHS}
window = 128
rows = 4
checkpoint_every = 3
record_samples = true
"""


def main(kills: int, ray_kills: int) -> None:
    with TemporaryDirectory() as folder:
        ptw(Path(folder), "init", "kills", "--size", "1000")
        root = Path(folder) / "kills"
        (root / "workspace.toml").write_text(TOML, encoding="utf-8")
        draw, hits = random.Random(SEED), Counter[str]()
        undisturbed, runs = killed_run(root, Forked(root), draw, hits, 0), []
        while hits.total() < kills:
            launch = Forked(root) if hits.total() < kills - ray_kills else ByRay(root)
            most = kills - ray_kills if isinstance(launch, Forked) else kills
            runs.append(killed_run(root, launch, draw, hits, most))
        figures = [
            Figure("kills", hits.total(), want=kills, better="more"),
            *(Figure(f"kills of {what}", count) for what, count in sorted(hits.items())),
            Figure("runs that they hit, each resumed to its end", len(runs)),
            Figure("steps of a run", len(curve(undisturbed))),
            Figure("samples of an epoch", len(samples(undisturbed))),
            *compared(undisturbed, runs),
        ]
    publish("kill_resume", "two workers; SIGKILL at moments from a fixed seed; fp32", figures)


def compared(undisturbed: Path, killed: list[Path]) -> list[Figure]:
    """How far the killed runs are from the undisturbed one: losses, samples and models."""
    expected = curve(undisturbed)
    differences = []
    for run in killed:
        assert curve(run).keys() == expected.keys(), f"{run}: other steps than the undisturbed run's"
        differences += [abs(loss - expected[step]) for step, loss in curve(run).items()]
    every = samples(undisturbed).keys()
    faults = sum(samples(run)[sample] != EPOCHS for run in [undisturbed, *killed] for sample in every)
    strange = sum(len(samples(run).keys() - every) for run in killed)
    return [
        Figure("largest difference of a step's loss", max(differences), want=0),
        Figure("samples lost or doubled", faults + strange, want=0),
        Figure(
            "models that differ in a bit", sum(model(run) != model(undisturbed) for run in killed), want=0
        ),
    ]


class Launch(Protocol):
    """The processes of a run."""

    def running(self) -> bool:
        """Whether the run goes on by itself."""

    def kill(self, run: Path, draw: random.Random) -> str:
        """Kills some; which."""

    def resume(self, run: Path) -> None:
        """Goes on after a kill, where that takes somebody."""


class ByRay:
    """`ptw train`: Ray Train starts lost workers again, and a lost driver is resumed."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.process = subprocess.Popen(
            command("train", "next-title", *options), cwd=root, env=environment(), stdout=subprocess.DEVNULL
        )

    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self, run: Path, draw: random.Random) -> str:
        wait_for(lambda: workers_of(run) or not self.running())
        together = draw.random() < TOGETHER
        begun = len(starts(run))
        os.kill(self.process.pid if together else draw.choice(workers_of(run)), signal.SIGKILL)
        if together:
            self.process.wait()
        else:
            wait_for(lambda: len(starts(run)) > begun or not self.running())
        return "the driver of Ray" if together else "a worker of Ray"

    def resume(self, run: Path) -> None:
        if not self.running() and not (run / "model").is_dir():
            begun = len(starts(run))
            self.process = ByRay(self.root, "--resume").process
            wait_for(lambda: len(starts(run)) > begun or not self.running())


class Forked:
    """Two workers without Ray, as torchrun starts them, but that they need not import anything again."""

    processes: list[int]

    def __init__(self, root: Path) -> None:
        from ptw.train.plan import resolve
        from ptw.workspace.manifest import read

        plan = root / "plan.json"
        plan.write_text(json.dumps(resolve(read(root), "next-title", {}).as_json() | {"threads": 1}))
        self._start(plan)

    def running(self) -> bool:
        self.processes = [process for process in self.processes if os.waitpid(process, os.WNOHANG)[0] == 0]
        return bool(self.processes)

    def kill(self, run: Path, draw: random.Random) -> str:
        together = draw.random() < TOGETHER
        draw.shuffle(self.processes)
        for process in self.processes if together else self.processes[:1]:
            os.kill(process, signal.SIGKILL)
        return "both workers" if together else "a worker"

    def resume(self, run: Path) -> None:
        until = time.monotonic() + GRACE_SECONDS
        while self.running():
            for process in self.processes if time.monotonic() > until else []:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        self._start(run / "run.json")

    def _start(self, plan: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [forked(plan, rank, port) for rank in range(2)]


def forked(plan: Path, rank: int, port: int) -> int:
    """A worker's process."""
    from ptw.train import worker  # imports torch, once

    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.dup2(os.open(plan.parent / f"stderr-{rank}.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY), 2)
    code = 1
    try:
        code = worker.main(plan)
    finally:
        os._exit(code)


def killed_run(root: Path, launch: Launch, draw: random.Random, hits: Counter[str], until: int) -> Path:
    """A run that loses processes again and again, and is resumed each time, until it is done."""
    before = set((root / "runs").glob("next-title-*"))
    run: Path = wait_for(lambda: next(iter(set((root / "runs").glob("next-title-*")) - before), None))
    while hits.total() < until and launch.running():
        moment = draw.choice(MOMENTS)
        await_moment(run, launch, moment, draw)
        if not launch.running():
            break
        step = max(curve(run), default=0)
        hits[f"{launch.kill(run, draw)}, {moment}"] += 1
        print(f"kill {hits.total()}: {moment}, of {run.name} after step {step}", file=sys.stderr, flush=True)
        launch.resume(run)
    wait_for(lambda: not launch.running())
    assert (run / "model").is_dir(), f"{run.name} has no model"
    return run


def await_moment(run: Path, launch: Launch, moment: Moment, draw: random.Random) -> None:
    """Until it has come, or the run has ended."""
    if moment == "any time":
        until = time.monotonic() + draw.uniform(0, MOST_SECONDS)
        wait_for(lambda: time.monotonic() > until or not launch.running())
    elif moment == "after a step":
        step = max(curve(run), default=0) + draw.randint(1, MOST_STEPS)
        wait_for(lambda: max(curve(run), default=0) >= step or not launch.running())
    else:
        wait_for(lambda: any(run.glob("checkpoints/.saving-*")) or not launch.running(), 0.001)
        time.sleep(draw.uniform(0, SAVING_SECONDS))


def wait_for(ready: Any, pause: float = 0.02) -> Any:
    """What `ready` gives once it gives something."""
    until = time.monotonic() + WAIT_SECONDS
    while not (found := ready()):
        assert time.monotonic() < until, "the run did not come so far in time"
        time.sleep(pause)
    return found


def starts(run: Path) -> list[list[int]]:
    """The workers' processes of each start."""
    events = [event for event in lines(run / "events.jsonl") if "processes" in event]
    return [[int(process) for _, process in event["processes"]] for event in events]


def workers_of(run: Path) -> list[int]:
    """The processes of the workers that were started last."""
    return (starts(run) or [[]])[-1]


def model(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def curve(run: Path) -> dict[int, float]:
    train = [line for line in lines(run / "metrics.jsonl") if line["kind"] == "train"]
    return {line["step"]: line["loss"] for line in train}


def samples(run: Path) -> Counter[str]:
    """How often each sample was used, by all workers."""
    return Counter(
        sample for path in run.glob("samples-*.jsonl") for line in lines(path) for sample in line["samples"]
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines: one may just be written."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3])) if len(sys.argv) > 2 else main(KILLS, RAY_KILLS)
