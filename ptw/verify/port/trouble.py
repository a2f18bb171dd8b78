"""What went wrong in a port, for its author? The error, and the lines of the port that it went through."""

from __future__ import annotations

import traceback
from pathlib import Path

LINES, FRAMES = 8, 4


def told(error: BaseException, file: Path) -> str:
    """The end of the traceback, then where in the port's file that was, innermost last."""
    lines = [line for line in traceback.format_exception(error) if line.strip()]
    last = "".join(lines).strip().splitlines()[-LINES:]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parts[-2:] == file.parts[-2:]][-FRAMES:]
    where = [f"at models/{file.name}:{frame.lineno}, in {frame.name}: {frame.line}" for frame in own]
    kept = [line for line in last if set(line.strip()) - {"^", "~"}]
    return "\n".join([*kept, *where])
