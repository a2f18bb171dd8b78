"""On what was it verified? Versions, processors, memory and devices, without importing what is heavy."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ptw import __version__

CPU_INFO, MEMORY_INFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")
NVIDIA = Path("/proc/driver/nvidia/gpus")
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "safetensors")


def versions() -> tuple[tuple[str, str], ...]:
    found = [(name, metadata.version(name)) for name in PACKAGES]
    return (("ptw", __version__), ("python", platform.python_version()), *found)


def machine() -> tuple[tuple[str, str], ...]:
    return tuple(_machine())


def processor() -> str:
    """Its name: what is compared to the bit depends on it."""
    return _field(CPU_INFO, r"model name\s*:\s*(.+)") or platform.processor() or "unknown"


def _machine() -> Iterator[tuple[str, str]]:
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "processor", f"{processor()}, {os.cpu_count() or 1} cores"
    kilobytes = _field(MEMORY_INFO, r"MemTotal:\s*(\d+) kB")
    if kilobytes:
        yield "memory", f"{int(kilobytes) / 2**20:.0f} GiB"
    devices = [_field(file, r"Model:\s*(.+)") or "NVIDIA" for file in NVIDIA.glob("*/information")]
    yield "device", ", ".join(devices) if devices else "cpu"


def _field(file: Path, pattern: str) -> str:
    try:
        found = re.search(pattern, file.read_text(errors="replace"))
    except OSError:
        return ""
    return found[1].strip() if found else ""
