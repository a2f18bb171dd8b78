"""How soon, how fast and in how much memory does a stream from an object store come, whatever its size?"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.corpora import gsm8k, many, oasst, self_instruct
from benchmarks.report import Figure, publish, real_data
from benchmarks.workspaces import environment, workspace

SMALL, LARGE = 50 << 20, 1 << 30
SHARD = 50 << 20
SECONDS = float(os.environ.get("PTW_STREAMING_SECONDS", "150"))  # that a stream is read at most
ROWS = 8  # of a batch
FORMS = ("jsonl", "jsonl.zst")
TOML = """
[workspace]
name = "streaming"

[tokenizers.qwen]
hf = "qwen2.5"
"""


def main() -> None:
    tokenizer = real_data("tokenizers") / "qwen2.5"
    rows = [
        *oasst(real_data("oasst")),
        *self_instruct(real_data("self-instruct")),
        *gsm8k(real_data("gsm8k")),
    ]
    figures: list[Figure] = []
    with workspace(TOML, {"qwen2.5": tokenizer}) as root, store():
        for form in FORMS:
            read = {}
            for name, size in (("50 MB", SMALL), ("1 GB", LARGE)):
                written = fill(f"{form}-{size}", rows, size, form)
                read[name] = stream(root, f"s3://corpora/{form}-{size}/*.{form}")
                figures += figures_of(f"{form}, {name}", read[name], written)
            peaks = [read[name]["peak_bytes"] for name in read]
            figures.append(Figure(f"{form}: peak memory, 1 GB / 50 MB", peaks[1] / peaks[0], want=1.05))
    publish("streaming", about(), figures)


def about() -> str:
    return (
        "chats of oasst, self-instruct and gsm8k, over and over, each row numbered, in shards of 50 MB on "
        "moto's S3 server on this machine; qwen2.5's tokenizer, rows of 2048, nothing trained; each stream "
        f"is read for {SECONDS:g} s at most; first batch: from the stream's opening; the imports and the "
        "tokenizer before it are the same for any stream"
    )


def figures_of(name: str, read: dict[str, Any], written: int) -> list[Figure]:
    return [
        Figure(f"{name}: imports and tokenizer", read["start_seconds"], "s"),
        Figure(f"{name}: first batch", read["first_seconds"], "s", want=5),
        Figure(f"{name}: first batch, CPU", read["first_busy_seconds"], "s"),
        Figure(f"{name}: peak memory", read["peak_bytes"] / 2**20, "MiB"),
        Figure(f"{name}: samples/s", read["samples"] / read["seconds"]),
        Figure(f"{name}: tokens/s", read["tokens"] / read["seconds"]),
        Figure(f"{name}: tokens per second of CPU", read["tokens"] / read["busy_seconds"]),
        Figure(f"{name}: read, of the stream's samples", (read["samples"] + read["refused"]) / written),
    ]


@contextmanager
def store() -> Iterator[None]:
    """An S3 server in a process of its own; this process and its children find it by the environment."""
    code = (
        "import sys; from moto.server import ThreadedMotoServer as Server; "
        "s = Server('127.0.0.1', 0, verbose=False); s.start(); "
        "print(s.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.stdout.readline().strip()}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield
    finally:
        server.kill()
        server.wait()


def fill(folder: str, rows: list[dict[str, Any]], size: int, form: str) -> int:
    """The corpus in shards, of so many bytes before they are compressed; how many samples it has."""
    import fsspec
    import zstandard

    filesystem = fsspec.filesystem("s3")
    filesystem.makedirs("corpora", exist_ok=True)
    lines = many(rows, size)
    number, written = 0, 0
    while shard := list(_upto(lines, SHARD)):
        content = b"".join(shard)
        stored = zstandard.compress(content) if form.endswith("zst") else content
        filesystem.pipe_file(f"corpora/{folder}/{number:03}.{form}", stored)
        number, written = number + 1, written + len(shard)
    return written


def _upto(lines: Iterator[bytes], size: int) -> Iterator[bytes]:
    taken = 0
    for line in lines:
        yield line
        taken += len(line)
        if taken >= size:
            return


def stream(root: Path, source: str) -> dict[str, Any]:
    """What a process of its own says that reads the source."""
    command = [sys.executable, "-m", "benchmarks.streaming", source]
    print(f"reading {source}", file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=root, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def read_here(source: str) -> dict[str, Any]:
    began = time.perf_counter()
    from ptw.data.stream import Stream
    from ptw.tokens.declared import open_tokenizer
    from ptw.workspace.manifest import DatasetEntry, read

    root = Path.cwd()
    tokenizer = open_tokenizer(read(root), "qwen")
    ready, used = time.perf_counter(), time.process_time()
    dataset = DatasetEntry("chats", (source,), "chat", too_long="truncate")
    rows = Stream(root, dataset, tokenizer, window=2048, seed=0, epochs=1)
    batch = list(islice(rows, ROWS))
    first, busy = time.perf_counter() - ready, time.process_time() - used
    count, tokens = len(batch), sum(sum(row.lengths) for row in batch)
    for row in rows:
        count, tokens = count + 1, tokens + sum(row.lengths)
        if time.perf_counter() - ready > SECONDS:
            break
    part = rows.parts["chats"]
    return {
        "start_seconds": ready - began,
        "first_seconds": first,
        "first_busy_seconds": busy,
        "seconds": time.perf_counter() - ready,
        "busy_seconds": time.process_time() - used,
        "rows": count,
        "tokens": tokens,
        "samples": part.samples_out,
        "refused": part.refused_count,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """The most memory that this process, which has no children, held at once."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(read_here(sys.argv[1])))
    else:
        main()
