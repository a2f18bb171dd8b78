"""A tiny workspace to train in: 40 members' sequences of 30 items, some chats, a model of two blocks."""

import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from ptw.runs import lines, record
from ptw.tokens import semantic
from ptw.tokens.semantic import SemanticIds
from ptw.train import worker
from ptw.train.plan import Plan, resolve
from ptw.workspace.manifest import read

PATIENCE_SECONDS = 150
TOML = """
[workspace]
name = "tiny"
[models.tiny.config]
model_type = "llama"
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 128
tie_word_embeddings = {tied}
[tokenizers.items]
items = "data/items.jsonl"
[tokenizers.words]
learn_from = "chats"
vocab_size = 300
[datasets.views]
source = "data/views.jsonl"
format = "event"
leave_out = 2
[datasets.chats]
source = "data/chats.jsonl"
format = "chat"
[datasets.texts]
source = "data/texts.jsonl"
format = "text"
too_long = "split"
[datasets.blend]
mix = {{ chats = 0.75, texts = 0.25 }}
[clusters.pair]
workers = 2
[recipes.next]
recipe = "{recipe}"
model = "tiny"
tokenizer = "items"
dataset = "views"
[recipes.next.settings]
steps = 30
window = 32
rows = 4
learning_rate = 1e-2
checkpoint_every = 5
record_samples = true
[recipes.next-on-two]
recipe = "{recipe}"
model = "tiny"
tokenizer = "items"
dataset = "views"
cluster = "pair"
[recipes.next-on-two.settings]
steps = 30
window = 32
rows = 4
learning_rate = 1e-2
checkpoint_every = 5
record_samples = true
[recipes.chat]
recipe = "sft"
model = "tiny"
tokenizer = "words"
dataset = "chats"
eval_dataset = "chats"
settings = {{ steps = 6, window = 128, rows = 2, learning_rate = 1e-2 }}
[recipes.mixed]
recipe = "sft"
model = "tiny"
tokenizer = "words"
dataset = "blend"
eval_dataset = "blend"
[recipes.mixed.settings]
epochs = 2
window = 64
rows = 2
learning_rate = 1e-2
checkpoint_every = 3
record_samples = true
"""

# a recipe that a user drops in: slow enough to be hit in the middle of a step
SLOW = """
import os
import time
from dataclasses import dataclass

from ptw.train.settings import TrainingSettings

@dataclass(frozen=True)
class Settings(TrainingSettings):
    steps: int = 30
    window: int = 32
    rows: int = 4
    learning_rate: float = 1e-2
    checkpoint_every: int = 5
    record_samples: bool = True
    schedule: str = "constant"
    sleep: float = 0.0

def train(run, settings):
    model, optimizer = run.model(), run.optimizer()
    for batch in run.batches():
        time.sleep(settings.sleep or float(os.environ.get("SLEEP", "0")))
        loss = run.mean_loss(model, batch)
        run.step(optimizer, loss)
    run.save(model)
"""


def make_workspace(root: Path, *, tied: bool = True, recipe: str = "slow") -> Path:
    draw = random.Random(0)
    items = [f"item{number}" for number in range(30)]
    views = [{"id": m, "items": draw.choices(items, k=draw.randint(5, 20))} for m in range(40)]
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} and one?"},
                {"role": "assistant", "content": str(n + 1)},
            ]
        }
        for n in range(12)
    ]
    (root / "data").mkdir(parents=True)
    (root / "recipes").mkdir()
    texts = [{"text": f"{n} and one is {n + 1}. " * (n + 1)} for n in range(5)]
    items = [{"id": item} for item in items]
    (root / "recipes" / "slow.py").write_text(SLOW)
    toml = TOML.format(tied=str(tied).lower(), recipe=recipe)
    return declare(root, toml, items=items, views=views, chats=chats, texts=texts)


def declare(root: Path, toml: str, **files: Sequence[Mapping[str, Any]]) -> Path:
    """The workspace with these tables too, and with these rows in data/."""
    for name, rows in files.items():
        (root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (root / "workspace.toml").open("a") as file:
        file.write(toml)
    return root


def with_codes(
    root: Path,
    name: str,
    codes: Sequence[Sequence[int]],
    *,
    items: Sequence[str],
    size: int,
    file: str,
    version: int = 1,
    ancestors: Sequence[str] = (),
) -> SemanticIds:
    """A version of a vocabulary with these codes, where `ptw vocab` puts it."""
    folder = semantic.version_folder(root, name, version)
    folder.mkdir(parents=True)
    facts = {"version": version, "files": [file], "ancestors": list(ancestors)}
    semantic.write_version(folder, SemanticIds(name, size, tuple(items), np.array(codes, np.int32), facts))
    return semantic.read_version(folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_workspace(tmp_path / "ws")


def planned(root: Path, recipe: str = "next", **overrides: object) -> Plan:
    """A plan with a run folder of its own, as the driver makes it."""
    plan = resolve(read(root), recipe, {key: str(value) for key, value in overrides.items()})
    folder = record.create(root, recipe, plan=plan.as_json()).folder
    plan = dataclasses.replace(plan, folder=folder, threads=1)
    record.change(folder, plan=plan.as_json())
    return plan


def trained(plan: Plan, stopping: Callable[[], bool] = lambda: False) -> record.RunRecord:
    """Train in this process."""
    worker.work(plan, stopping)
    return record.read(plan.run_folder())


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines.read(folder / record.METRICS)[0] if line["kind"] == "train"]


def measured_of(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines.read(folder / record.METRICS)[0] if line["kind"] == "eval"]


def until(step: int, folder: Path, patience_seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        if folder.is_dir() and len(steps_of(folder)) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"{folder} did not come to step {step}")


def processes_of(folder: Path) -> list[int]:
    """Of the workers that were started last."""
    starts = [event for event in lines.read(folder / record.EVENTS)[0] if "processes" in event]
    return [process for _, process in starts[-1]["processes"]]


def curve_of(folder: Path) -> list[tuple[int, float, str]]:
    return [(line["step"], line["loss"], line["digest"]) for line in steps_of(folder)]


def samples_of(folder: Path) -> dict[int, list[str]]:
    """Step -> the samples of all workers."""
    found: dict[int, list[str]] = {}
    for path in sorted(folder.glob("samples-*.jsonl")):
        for line in lines.read(path)[0]:
            found.setdefault(line["step"], []).extend(line["samples"])
    return {step: sorted(samples) for step, samples in found.items()}


def environment(**extra: str) -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **extra}


def together(plan: Plan, world: int) -> list[subprocess.CompletedProcess[str]]:
    """Train in `world` processes, with torchrun's variables and without Ray."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "ptw.train.worker", str(plan.run_folder() / record.FILE)]
    workers = [
        subprocess.Popen(
            command,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **shared),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [process.communicate(timeout=150) for process in workers]
    return [
        subprocess.CompletedProcess(command, process.returncode, out, err)
        for process, (out, err) in zip(workers, outputs, strict=True)
    ]


@pytest.fixture
def four() -> Iterator[None]:
    """A process group of four, of which only this one is there."""
    distributed.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    yield
    distributed.destroy_process_group()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nothing happened to, on one worker."""
    return trained(planned(make_workspace(tmp_path_factory.mktemp("base") / "ws"))).folder


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    """One Ray for the tests of this process."""
    import ray

    if ray.is_initialized():  # for tests of another folder
        yield
        return
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
