"""How do several processes of one program run, with torchrun's variables?"""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 240


def run(module: str, *arguments: object, world: int) -> None:
    """`python -m module arguments`, so many times at once; fails with what the first one said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # without it, gloo looks for the machine's name on a network
    shared |= {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), **shared},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), said[0][-3000:]
