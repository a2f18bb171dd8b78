"""What do plans for two workers change: of the loss nothing, and how much of each worker's memory?"""

import ctypes
import gc
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.report import Figure, publish
from benchmarks.workspaces import GIVEN_BACK, environment
from ptw.nn.layout import Layout
from ptw.ports.export import export
from ptw.ports.load import Loaded, create, load
from ptw.train.group import Group, joined
from ptw.train.optimize import adamw
from ptw.train.parallel import recompute, spreading
from ptw.workspace.manifest import ClusterEntry

CONFIG = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 13,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
SPARSE = CONFIG | {
    "model_type": "qwen3_moe",
    "hidden_size": 512,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 7,
    "num_attention_heads": 8,
    "head_dim": 64,
    "num_experts": 16,
    "num_experts_per_tok": 2,
}
FEW = {"hidden_size": 96, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2}
STEPS, ROWS, WINDOW = 2, 4, 128
MIB = 2**20
# workers, and the cluster's plan
Plan = dict[str, Any]
PLANS: dict[str, Plan] = {
    "1 worker": {"workers": 1},
    "1 worker, recompute": {"workers": 1, "recompute": True},
    "2 workers": {"workers": 2},
    "2 workers, recompute": {"workers": 2, "recompute": True},
    "2 workers, tensor = 2": {"workers": 2, "tensor": 2},
}
PLANS_OF_EXPERTS: dict[str, Plan] = {
    "1 worker": {"workers": 1},
    "2 workers": {"workers": 2},
    "2 workers, experts = 2": {"workers": 2, "experts": 2},
}


def main() -> None:
    figures = compared("the model", CONFIG, PLANS) + compared("experts", SPARSE, PLANS_OF_EXPERTS)
    publish(
        "parallel",
        f"a llama, and a qwen3_moe (experts), in fp32 with AdamW, {STEPS} steps of {ROWS} rows of {WINDOW} "
        "tokens on a CPU; the largest worker's resident memory, its peak above what it had before the model "
        "was opened; glibc gives back what is freed",
        figures,
    )


def compared(name: str, config: dict[str, Any], plans: dict[str, Plan]) -> list[Figure]:
    """The plans of one model."""
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        model = create(config, None, seed=0)
        size = sum(parameter.nbytes for parameter in model.module.parameters()) / MIB
        export(model, checkpoint)
        found = {plan: measured(checkpoint, Path(folder) / "out.json", how) for plan, how in plans.items()}
    expected = found["1 worker"]["losses"]
    figures = [Figure(f"{name} in fp32", size, "MiB")]
    before = "" if config is CONFIG else f"{name}: "
    for plan, told in found.items():
        figures += [
            Figure(f"{before}{plan}: while loading, above before", told["loading"], "MiB", limit(plan, size)),
            Figure(f"{before}{plan}: while training, above before", told["training"], "MiB"),
        ]
        if plan != "1 worker":
            off = max(abs(one / other - 1) for one, other in zip(told["losses"], expected, strict=True))
            figures.append(Figure(f"{before}{plan}: loss, relative difference", off, want=1e-6))
    return figures


def limit(name: str, size: float) -> float | None:
    """A worker that holds half a model has never had the whole in memory."""
    return 0.75 * size if "2 workers" in name else None


def measured(checkpoint: Path, out: Path, plan: Plan) -> dict[str, Any]:
    """What the workers of a plan found."""
    world = plan["workers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = (
        environment() | GIVEN_BACK | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    )
    command = [sys.executable, "-m", "benchmarks.parallel", str(checkpoint), str(out), json.dumps(plan)]
    workers = [
        subprocess.Popen(command, env=shared | {"WORLD_SIZE": str(world), "RANK": str(rank)})
        for rank in range(world)
    ]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        sys.exit(f"{plan}: a worker failed")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def work(checkpoint: Path, out: Path, plan: Plan) -> None:
    """One of the workers; the first writes down what all found."""
    torch.set_num_threads(1)
    with joined() as workers:
        cluster = ClusterEntry("benchmark", **plan)
        group = Group(workers.rank, workers.world, workers.device, cluster.tensor)
        # what is imported and set up when it is first used is not the model's
        config = json.loads((checkpoint / "config.json").read_text())
        few = {key: value for key, value in FEW.items() if key in config}
        train(create(config | few, None, seed=0, spread=_spread(cluster, group)), group)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what it freed serves the model, and is not counted
        before = resident("VmRSS")
        forget_peak()
        loaded = load(checkpoint, None, dtype=torch.float32, spread=_spread(cluster, group))
        loading = resident("VmHWM") - before
        if cluster.recompute:
            recompute(loaded.module)
        forget_peak()
        losses = train(loaded, group)
        everyone = group.gathered([loading, resident("VmHWM") - before])
        if group.first:
            loading, training = (max(values) for values in zip(*everyone, strict=True))
            out.write_text(json.dumps({"losses": losses, "loading": loading, "training": training}))
        group.wait()


def _spread(cluster: ClusterEntry, group: Group) -> Any:
    return spreading(cluster, group, "fp32", "the model")


def train(loaded: Loaded, group: Group) -> list[float]:
    """The losses of all rows, step by step."""
    module: Any = loaded.module
    optimizer = adamw(module, 1e-4, 0.1)
    draw = torch.Generator().manual_seed(1)
    own = slice(group.data_rank, None, group.data_world)
    losses = []
    for _ in range(STEPS):
        ids_BT = torch.randint(0, CONFIG["vocab_size"], (ROWS, WINDOW), generator=draw)  # type: ignore[call-overload]
        rows = ids_BT[own]
        hidden_BTD = module(rows, Layout.of_documents([[WINDOW]] * len(rows), width=WINDOW))
        loss = module.head().loss(hidden_BTD, rows.roll(-1, 1)) / ids_BT.numel()
        (loss * group.data_world).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses += group.sum(group.once(loss.item()))
    return losses


def resident(key: str) -> float:
    """MiB: VmRSS now, VmHWM the most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{key}:"))) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if len(sys.argv) > 1:
        work(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        main()
