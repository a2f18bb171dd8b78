"""What is asked for: a name, a source, by whom, within which limits; and what of it is plainly wrong?"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.workspace.declare import refuse_known, with_model
from ptw.workspace.document import FILE, file_text
from ptw.workspace.manifest import AgentEntry


@dataclass(frozen=True)
class Wish:
    """`name` in workspace.toml, from `source`; `recording` is a conversation to replay."""

    name: str
    source: str
    revision: str | None
    agent: AgentEntry
    recording: Path | None = None

    def as_settings(self) -> dict[str, Any]:
        """What a run's record keeps."""
        recording = str(self.recording.resolve()) if self.recording else None
        own = {"name": self.name, "source": self.source, "revision": self.revision, "recording": recording}
        return {**own, **dataclasses.asdict(self.agent)}


def of_settings(settings: Mapping[str, Any], agent: AgentEntry) -> Wish:
    """The wish of a run that goes on, perhaps by another agent."""
    recording = settings["recording"]
    path = Path(recording) if recording else None
    return Wish(settings["name"], settings["source"], settings["revision"], agent, path)


def refuse(root: Path, wish: Wish) -> None:
    """What can be seen to be wrong before anything is read."""
    values = tomllib.loads(file_text(root / FILE))
    refuse_known(values, wish.name)
    with_model("", wish.name, {})
    ways = [bool(wish.agent.command), wish.recording is not None, bool(wish.agent.llm)]
    if not any(ways):
        raise PtwError(
            "who is to write the port? --llm anthropic/<model> (or [agent] llm in workspace.toml), "
            "--agent-command 'claude -p', or --replay FILE"
        )
