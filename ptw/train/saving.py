"""How is a checkpoint written while training goes on? By a thread, from a copy of the state in CPU memory."""

import copy
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from ptw.train import checkpoint
from ptw.train.group import Group, apart


class Saver:
    """Writes one checkpoint at a time. Steps wait only for the copy, and for a checkpoint still unfinished.

    The workers' threads agree over a channel of their own, so that they never meet training's. The memory of
    the copy is kept from one checkpoint to the next. All methods are called by all workers together.
    """

    def __init__(self, run: Path, group: Group, keep: checkpoint.Keep) -> None:
        self._run, self._keep = run, keep
        self._stack = ExitStack()
        self._group = self._stack.enter_context(apart(group))
        self._thread = self._stack.enter_context(ThreadPoolExecutor(1, "checkpoint"))
        self._pending: Future[Path] | None = None
        cuda = group.device.type == "cuda"
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=cuda,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=cuda,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A checkpoint that is being written is finished, also where training ends by an error."""
        if self._pending is not None:
            wait([self._pending])
        self._stager.close()
        self._stack.close()

    @property
    def failed(self) -> bool:
        """Whether it is known already that `finish` will raise."""
        pending = self._pending
        return pending is not None and pending.done() and pending.exception() is not None

    def begin(
        self, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
    ) -> None:
        """Save this step's checkpoint. PtwError if the one before could not be saved."""
        self.finish()
        tensors: Any = self._stager.stage(checkpoint.contents(module, optimizer))
        self._pending = self._thread.submit(
            checkpoint.save, self._run, step, tensors, copy.deepcopy(state), self._group, self._keep
        )

    def finish(self) -> None:
        """Wait until the checkpoint that was begun is there; PtwError if it could not be saved."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
