"""Who draws the answers of a run, and what happens when one of them is lost?"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ptw.errors import PtwError
from ptw.rl.engine import Asked, Drawn, Sampling, Vllm
from ptw.rl.port_engine import PortEngine
from ptw.rl.settings import RolloutSettings
from ptw.train.connect import last_line
from ptw.train.plan import Plan

STARTS = 3  # of an engine in a row, before the run ends


class Engine(Protocol):
    def load(self, folder: Path) -> None:
        """Other weights of the same model."""

    def generate(self, asked: Sequence[Asked]) -> list[Drawn]:
        """An answer to each, drawn by its own seed: what else is asked for at once changes nothing."""


class Engines(Engine, Protocol):
    """As many as there are, as one."""

    def close(self) -> None: ...


class Here:
    """One engine, in this process: where no Ray is."""

    def __init__(self, make: Callable[[Path], Engine]) -> None:
        self._make = make
        self._engine: Engine | None = None

    def load(self, folder: Path) -> None:
        if self._engine is None:
            self._engine = self._make(folder)
        else:
            self._engine.load(folder)

    def generate(self, asked: Sequence[Asked]) -> list[Drawn]:
        assert self._engine is not None, "weights are loaded first"
        return self._engine.generate(asked)

    def close(self) -> None:
        self._engine = None


class OnRay:
    """`count` actors of Ray, each an engine with `gpus`. One that dies or hangs is replaced, and asked again.

    Answers are drawn by seeds, so that asking again gives the same ones.
    """

    def __init__(
        self,
        make: Callable[[Path], Engine],
        count: int,
        gpus: float,
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._make, self._count, self._gpus, self._seconds, self._say = make, count, gpus, seconds, say
        self._actors: list[Any] = [None] * count
        self._folder: Path | None = None
        self._closed = False

    def load(self, folder: Path) -> None:
        self._folder = folder
        self._each(lambda actor, at: actor.load.remote(folder))

    def generate(self, asked: Sequence[Asked]) -> list[Drawn]:
        shares = [list(asked[at :: self._count]) for at in range(self._count)]
        found = self._each(lambda actor, at: actor.generate.remote(shares[at]))
        drawn: list[Any] = [None] * len(asked)
        for at, answers in enumerate(found):
            drawn[at :: self._count] = answers
        return drawn

    def close(self) -> None:
        import ray

        self._closed = True
        for actor in filter(None, self._actors):
            ray.kill(actor)

    def _each(self, call: Callable[[Any, int], Any]) -> list[Any]:
        """What each engine comes back with; all work at once."""
        import ray

        asked = [call(self._actor(at), at) for at in range(self._count)]
        found = []
        for at, one in enumerate(asked):
            for start in range(1, STARTS + 1):
                try:
                    found.append(ray.get(one, timeout=self._seconds))
                    break
                except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
                    reason = last_line(error)
                    if self._closed:  # by the run's thread, while another one asks
                        raise PtwError(f"engine {at} was ended with the run") from error
                    if start == STARTS:
                        raise PtwError(f"engine {at} was lost {STARTS} times in a row: {reason}") from error
                    self._say(f"engine {at} is lost, and replaced: {reason}")
                    ray.kill(self._actors[at])
                    self._actors[at] = None
                    one = call(self._actor(at), at)
        return found

    def _actor(self, at: int) -> Any:
        import ray

        if self._actors[at] is None:
            assert self._folder is not None, "weights are loaded first"
            made = ray.remote(_Actor).options(num_cpus=0, num_gpus=self._gpus)
            self._actors[at] = made.remote(self._make, self._folder)
        return self._actors[at]


class _Actor:
    """An engine behind Ray."""

    def __init__(self, make: Callable[[Path], Engine], folder: Path) -> None:
        self._folder, self._engine = folder, make(folder)

    def load(self, folder: Path) -> None:
        if folder != self._folder:
            self._engine.load(folder)
            self._folder = folder

    def generate(self, asked: list[Asked]) -> list[Drawn]:
        return self._engine.generate(asked)


def engines_of(
    plan: Plan, settings: RolloutSettings, stop_ids: Collection[int], say: Callable[[str], None]
) -> Engines:
    """As many as the cluster has for rollouts; one in this process where no Ray runs."""
    sampling = Sampling(
        settings.temperature,
        settings.top_p,
        settings.top_k,
        settings.max_new_tokens,
        tuple(sorted(stop_ids)),
    )
    dtype = "bfloat16" if settings.precision == "bf16" else "float32"
    make: Callable[[Path], Engine]
    if settings.engine == "ptw":
        make = partial(PortEngine, root=plan.root, port=plan.model.port, sampling=sampling, dtype=dtype)
    elif importlib.util.find_spec("vllm") is None:
        raise PtwError(
            "settings: engine = vllm: it is not installed; pip install 'ptw[rl]' (on a CPU as docs/rl.md "
            "says), or set engine = 'ptw'"
        )
    else:
        memory = settings.rollout_memory
        make = partial(Vllm, window=settings.window, sampling=sampling, dtype=dtype, memory=memory)
    import ray

    if not ray.is_initialized():
        return Here(make)
    cluster = plan.cluster
    return OnRay(make, cluster.rollouts, cluster.gpus_per_rollout, settings.rollout_seconds, say)
