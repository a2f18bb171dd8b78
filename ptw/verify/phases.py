"""What is the gate doing, and how far has it come? A line a phase, told while it lasts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

Progress = Callable[[str], None]
Count = Callable[[], str]
POLL_SECONDS = 0.25


class Phases:
    """Tells `progress` the name of the phase, its count as it grows, and its seconds; keeps the seconds."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def __call__(self, name: str, count: Count = lambda: "") -> Iterator[None]:
        start, ended = time.monotonic(), threading.Event()

        def tell() -> None:
            counted = count()
            self.progress(f"{name}{': ' if counted else ''}{counted} ({time.monotonic() - start:.0f} s)")

        def keep_telling() -> None:
            while not ended.wait(POLL_SECONDS):
                tell()

        self.progress(name)
        teller = threading.Thread(target=keep_telling, daemon=True)
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()
        tell()
        self.seconds.append((name, round(time.monotonic() - start, 2)))
