"""What is asked for: a name, a source, by whom, within which limits; and what of it is plainly wrong?"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.workspace.declare import refuse_known, with_model
from ptw.workspace.document import FILE, file_text
from ptw.workspace.manifest import AgentEntry, agent_entry


@dataclass(frozen=True)
class Wish:
    """`name` in workspace.toml, from `source`; `recording` is a conversation to replay.

    `given` is what of the agent was asked for besides workspace.toml: it holds when the run goes on.
    """

    name: str
    source: str
    revision: str | None
    agent: AgentEntry
    recording: Path | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def as_settings(self) -> dict[str, Any]:
        """What a run's record keeps."""
        recording = str(self.recording.resolve()) if self.recording else None
        own = {"name": self.name, "source": self.source, "revision": self.revision, "recording": recording}
        return {**own, "given": dict(self.given), **dataclasses.asdict(self.agent)}


def of_settings(settings: Mapping[str, Any], declared: AgentEntry, given: Mapping[str, Any]) -> Wish:
    """The wish of a run that goes on: what is given now comes before what was given then."""
    recording = settings["recording"]
    path = Path(recording) if recording else None
    both = {**settings.get("given", {}), **given}
    agent = agent_of(declared, both)
    return Wish(settings["name"], settings["source"], settings["revision"], agent, path, both)


def agent_of(declared: AgentEntry, given: Mapping[str, Any]) -> AgentEntry:
    """What is given comes before what is declared."""
    return agent_entry(**{**dataclasses.asdict(declared), **given})


def refuse(root: Path, wish: Wish) -> None:
    """What can be seen to be wrong before anything is read."""
    refuse_name(root, wish)
    ways = [bool(wish.agent.command), wish.recording is not None, bool(wish.agent.llm)]
    if not any(ways):
        raise PtwError(
            "who is to write the port? --llm anthropic/<model> (or [agent] llm in workspace.toml), "
            "--agent-command 'claude -p', or --replay FILE"
        )


def refuse_name(root: Path, wish: Wish) -> None:
    """PtwError for a model that is declared already, or could not be declared."""
    refuse_known(tomllib.loads(file_text(root / FILE)), wish.name)
    with_model("", wish.name, {})
