"""How does a benchmark make a workspace and use it as a user would?"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

# glibc then gives back what is freed: what stays is what tensors take
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def llama(name: str, layers: int, heads: int) -> str:
    """The table of a small shape of width 128, to train from scratch."""
    return f"""
[models.{name}.config]
model_type = "llama"
hidden_size = 128
intermediate_size = 256
num_hidden_layers = {layers}
num_attention_heads = {heads}
num_key_value_heads = {heads}
max_position_embeddings = 512
tie_word_embeddings = true
"""


@contextmanager
def workspace(toml: str, links: dict[str, Path] | None = None) -> Iterator[Path]:
    """A workspace in a temporary folder; `links` are folders that it sees under these names."""
    root = Path(mkdtemp(prefix="ptw-benchmark-"))
    try:
        (root / "data").mkdir()
        for name, target in (links or {}).items():
            (root / name).symlink_to(target)
        (root / "workspace.toml").write_text(toml, encoding="utf-8")
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ptw", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def ptw(root: Path, *arguments: str, **more: str) -> str:
    """What the command writes to stdout. Its progress and its errors are shown as they come.

    more: of the environment.
    """
    print(f"$ ptw {' '.join(arguments)}", file=sys.stderr, flush=True)
    env = environment() | more
    done = subprocess.run(command(*arguments), cwd=root, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"ptw {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def figures_of(root: Path, *arguments: str) -> dict[str, Any]:
    """What a command with --json says."""
    figures: dict[str, Any] = json.loads(ptw(root, *arguments, "--json"))
    return figures
