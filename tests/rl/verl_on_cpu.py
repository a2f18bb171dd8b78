"""What verl 0.9.1 needs to run where there is no accelerator: with this folder in PYTHONPATH,

VERL_PLATFORM=cpu VERL_USE_EXTERNAL_MODULES=verl_on_cpu. Ray has slots called GPU there. Four things of others
are changed: the name of gloo for two devices that are one, a class that TRL no longer has, memory that cannot
be pinned, and shared memory that a tensor still looks at when it is closed.
"""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.shared_memory import SharedMemory
from types import ModuleType
from typing import Any

import torch
import torch.distributed
import verl.utils.import_utils
from torch.distributed.fsdp import CPUOffloadPolicy
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

GLOO, TWICE = "gloo", "cpu:gloo,cpu:gloo"


def nothing(*_: Any, **__: Any) -> None:
    return None


def used(*_: Any, **__: Any) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free(*_: Any) -> tuple[int, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page


def device_module() -> ModuleType:
    """In place of torch.cuda."""
    found: Any = ModuleType("cpu_in_place_of_cuda")
    for name in ("synchronize", "empty_cache", "ipc_collect", "set_device", "manual_seed", "manual_seed_all"):
        setattr(found, name, nothing)
    for name in ("reset_peak_memory_stats", "set_rng_state", "init"):
        setattr(found, name, nothing)
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(found, name, used)
    found.mem_get_info = free
    found.current_device = lambda: 0
    found.device_count = lambda: 1
    found.is_available = lambda: True
    found.is_bf16_supported = lambda *_, **__: True
    found.get_device_name = lambda *_: "cpu"
    found.get_rng_state = lambda *_: torch.get_rng_state()
    found.get_device_capability = lambda *_: (None, None)
    found.Stream, found.stream = torch.cpu.Stream, torch.cpu.stream
    found.current_stream = torch.cpu.current_stream
    found.Event = getattr(torch.cpu, "Event", torch.Event)
    return found


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = vendor_name = "cpu"
    device_module = device_module()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return True

    def current_device(self) -> Any:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...
    def synchronize(self, device_index: int | None = None) -> None: ...
    def set_allocator_settings(self, settings: str) -> None: ...
    def empty_cache(self) -> None: ...
    def profiler_start(self) -> None: ...
    def profiler_stop(self) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return GLOO

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def one_gloo(start: Callable[..., Any]) -> Callable[..., Any]:
    def started(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
        return start(GLOO if backend == TWICE else backend, *args, **kwargs)

    return started


def unpinned(start: Callable[..., None]) -> Callable[..., None]:
    def started(self: Any, pin_memory: bool = False) -> None:
        start(self, pin_memory=False)

    return started


def forgiving(close: Callable[..., None]) -> Callable[..., None]:
    def closed(self: Any) -> None:
        with suppress(BufferError):
            close(self)

    return closed


os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")  # verl's own engines are registered for no other
torch.distributed.init_process_group = one_gloo(torch.distributed.init_process_group)
verl.utils.import_utils.is_trl_available = lambda: False
CPUOffloadPolicy.__init__ = unpinned(CPUOffloadPolicy.__init__)  # type: ignore[method-assign]
SharedMemory.close = forgiving(SharedMemory.close)  # type: ignore[method-assign]
