"""How is the reference asked? One process that draws the cases and, when every port has ended, answers them.

It imports transformers once. Requests are lines of JSON on its standard input; each is answered by a line
when its work is done. What a request makes is written to files, never sent.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
Work = Callable[[dict[str, Any]], None]


def main() -> None:
    end_with_parent()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.AutoModelForCausalLM  # noqa: B018 - imported now, while ports start
    from ptw.verify.drawing import enlarge
    from ptw.verify.reference.trace import answer

    gc.freeze()  # what was imported stays: looking through it again and again takes up to a tenth of the time
    kinds: dict[str, Work] = {"draw": draw, "enlarge": enlarge.main, "answer": answer}
    for line in sys.stdin:
        asked = json.loads(line)
        failed = side_by_side(kinds[asked["kind"]], asked["requests"], asked["workers"])
        sys.stdout.write(json.dumps({"failed": failed}) + "\n")
        sys.stdout.flush()


def end_with_parent() -> None:
    """Killed by the kernel when whoever asked is gone, where the kernel can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def draw(request: dict[str, Any]) -> None:
    """One family's cases; a fault of one is not the next one's."""
    from ptw.verify.drawing import draw

    target = Path(request["folder"])
    try:
        draw.main(request["model_type"], request["level"], request["seed"], target)
    except Exception as error:
        for case in (target / "given").iterdir():  # the folder itself is shown to the port's process
            shutil.rmtree(case, ignore_errors=True)
        (target / "error").write_text(f"{type(error).__name__}: {error}")


def side_by_side(work: Work, requests: Sequence[dict[str, Any]], workers: int) -> int:
    """Each worker takes the next request that nobody has; gives how many workers failed."""
    if workers < 2 or len(requests) < 2:
        for request in requests:
            work(request)
        return 0
    # a byte a request: whoever reads one takes the next; a fork costs nothing where an import costs seconds
    taken, left = os.pipe()
    children = []
    for _ in range(workers):
        child = os.fork()
        if child == 0:
            _work(work, requests, taken, left)
        children.append(child)
    os.close(taken)
    for number in range(len(requests)):
        os.write(left, number.to_bytes(4, "big"))
    os.close(left)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def _work(work: Work, requests: Sequence[dict[str, Any]], taken: int, left: int) -> None:
    status = 1
    end_with_parent()
    try:
        os.close(left)
        while number := os.read(taken, 4):
            work(requests[int.from_bytes(number, "big")])
        status = 0
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
