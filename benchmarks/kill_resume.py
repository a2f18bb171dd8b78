"""Does a run whose worker or driver is killed end as the undisturbed one, no sample lost or doubled?"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from benchmarks.report import Figure, publish
from benchmarks.workspaces import command, environment, ptw

Victim = Literal["worker", "driver"]
KILLS = 3  # of each
EPOCHS = 2
SEED = 0  # of the steps at which is killed
WAIT_SECONDS = 240.0
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
checkpoint_every = 7
record_samples = true
"""


def main() -> None:
    draw = random.Random(SEED)
    with TemporaryDirectory() as folder:
        ptw(Path(folder), "init", "kills", "--size", "1000")
        root = Path(folder) / "kills"
        (root / "workspace.toml").write_text(TOML, encoding="utf-8")
        ptw(root, "train", "next-title")
        undisturbed = root / "runs" / "next-title-001"
        steps = len(curve(undisturbed))
        figures = [Figure("steps of a run", steps), Figure("samples of an epoch", len(samples(undisturbed)))]
        for victim in ("worker", "driver"):
            # in the first half: workers that lost their driver go on for a moment
            at = sorted(draw.sample(range(2, steps // 2), KILLS))
            killed = [killed_run(root, victim, step) for step in at]
            figures += compared(undisturbed, killed, f"{victim} killed after steps {at}")
    publish("kill_resume", f"two workers; SIGKILL; {KILLS} runs each; fp32 losses, step by step", figures)


def compared(undisturbed: Path, killed: list[Path], name: str) -> list[Figure]:
    """The largest difference to the undisturbed curve, and the samples that were not used once an epoch."""
    expected = curve(undisturbed)
    differences = []
    for run in killed:
        assert curve(run).keys() == expected.keys(), f"{run}: other steps than the undisturbed run's"
        differences += [abs(loss - expected[step]) for step, loss in curve(run).items()]
    every = samples(undisturbed).keys()
    faults = sum(samples(run)[sample] != EPOCHS for run in [undisturbed, *killed] for sample in every)
    strange = sum(len(samples(run).keys() - every) for run in killed)
    return [
        Figure(f"{name}: largest difference of the loss", max(differences), want=0),
        Figure(f"{name}: samples lost or doubled", faults + strange, want=0),
    ]


def killed_run(root: Path, victim: Victim, step: int) -> Path:
    """A run that loses a process once it has made this step, and that then goes on to its end."""
    before = set((root / "runs").iterdir())
    print(f"$ ptw train next-title   # its {victim} is killed after step {step}", file=sys.stderr, flush=True)
    driver = subprocess.Popen(
        command("train", "next-title"), cwd=root, env=environment(), stdout=subprocess.DEVNULL
    )
    run = wait_for(lambda: next(iter(set((root / "runs").glob("next-title-*")) - before), None), driver)
    wait_for(lambda: max(curve(run), default=0) >= step, driver)
    os.kill(driver.pid if victim == "driver" else worker_of(run), signal.SIGKILL)
    code = driver.wait(timeout=WAIT_SECONDS)
    if victim == "driver":
        ptw(root, "train", "next-title", "--resume")
    else:
        assert code == 0, f"the run did not survive the loss of its worker: exit {code}"
        starts = sum("start" in event for event in lines(run / "events.jsonl"))
        assert starts == 2, f"the workers were started {starts} times: the kill came too late"
    return run


def wait_for(ready: Any, driver: subprocess.Popen[bytes]) -> Any:
    """What `ready` gives once it gives something."""
    until = time.monotonic() + WAIT_SECONDS
    while not (found := ready()):
        assert driver.poll() is None, f"the run ended before it could be killed: exit {driver.returncode}"
        assert time.monotonic() < until, "the run did not come so far in time"
        time.sleep(0.02)
    return found


def worker_of(run: Path) -> int:
    """The process of the last worker that was started."""
    start = next(event for event in reversed(lines(run / "events.jsonl")) if "processes" in event)
    return int(start["processes"][-1][1])


def curve(run: Path) -> dict[int, float]:
    train = [line for line in lines(run / "metrics.jsonl") if line["kind"] == "train"]
    assert len({line["step"] for line in train}) == len(train), f"{run}: a step stands there twice"
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
    main()
