"""How does a coding agent of the user's own write a port? By its command line, in the worktree.

It finds the task in TASK.md and the reading list in reading/. It has a shell, so it gets no credential that
it was not promised by name. What it leaves is judged elsewhere: the one file, by a gate that is as before.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptw.agent import judging, prompt
from ptw.agent.conversation import Conversation
from ptw.agent.desk import Desk, digest, submit
from ptw.agent.environment import clean
from ptw.agent.loop import Accepted, Stopped, Tell
from ptw.agent.worktree import Worktree
from ptw.errors import PtwError

TASK, READING = "TASK.md", "reading"
LOG = "agent.log"
HOW = """

# How to work here

- The file to write is {name}, in this folder; nothing else may change. The reading list is in reading/.
- Read the reference, think about where it differs from the draft that stands in {name}, then change that.
- `{python} -m ptw verify {model_type}` holds it to the practice cases and says where it is wrong, in a minute
  or two (`--only VERIFIER` asks one alone, in less). If your shell ends commands sooner, start it with
  `nohup ... > "$HOME/practice.log" 2>&1 &`, outside of this folder, and look into the log until it ends with
  `passed` or `failed`.
- When practice passes, stop. Acceptance follows by itself, on cases drawn afresh: a special case for what
  practice shows does not survive it. If it fails, you are called again and find what it said at the end of
  this file.
- Some files of reading/ are longer than an agent's shell may show at once: read them in parts.
"""


@dataclass(frozen=True)
class Command:
    """`environment` names the variables that it needs besides plain ones."""

    line: str
    environment: Sequence[str]
    max_minutes: float


def work(
    command: Command, worktree: Worktree, desk: Desk, first: str, talk: Conversation, tell: Tell
) -> Accepted:
    """Run the command until the gate accepts; Stopped when a limit is reached."""
    put_task(worktree.root, desk, first)
    before = judging.gate_files()
    deadline = time.monotonic() + 60 * command.max_minutes
    while True:
        started = time.monotonic()
        code = _run(command, worktree.root, talk.folder / LOG, deadline)
        said = {"seconds": round(time.monotonic() - started, 1), "draft": digest(desk.text)}
        tell(talk.append("event", text=f"{command.line}: ended with {code}", **said))
        _refuse_strangers(worktree, desk, before)
        result = submit(desk)
        brief = {"level": result.verdict.level, "passed": result.verdict.passed} if result.verdict else None
        tell(talk.append("event", text=result.stable, verdict=brief))
        if result.stable == "accepted" and result.verdict is not None:
            return Accepted(desk.text, result.verdict)
        if desk.submissions >= desk.most_submissions:
            raise Stopped(f"{desk.submissions} acceptances were asked for and none was given")
        if time.monotonic() >= deadline:
            raise Stopped(f"{command.max_minutes:g} minutes are over (max_minutes)")
        with (worktree.root / TASK).open("a", encoding="utf-8") as file:
            file.write(f"\n# What the gate said\n\n{result.text}\n")


def put_task(root: Path, desk: Desk, first: str) -> None:
    """What the agent finds: the rules, where the draft comes from, and the reading list as files."""
    how = HOW.format(name=desk.name, python=sys.executable, model_type=desk.model_type)
    (root / TASK).write_text(prompt.RULES.format(name=desk.name) + "\n\n" + first + how, encoding="utf-8")
    for page in desk.pages:
        file = root / READING / page.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page.text, encoding="utf-8")


def refuse_unknown(command: str) -> None:
    """PtwError where there is no such program."""
    words = shlex.split(command)
    if not words or shutil.which(words[0]) is None:
        raise PtwError(f"--agent-command {command!r}: there is no such program: name one that is installed")


def _refuse_strangers(worktree: Worktree, desk: Desk, before: Mapping[str, str]) -> None:
    now = judging.gate_files()
    changed = [file for file in sorted(before.keys() | now.keys()) if before.get(file) != now.get(file)]
    if changed:
        raise Stopped(
            f"while the agent worked the gate itself was changed: {', '.join(changed[:3])}; "
            "install ptw anew before anything else is believed"
        )
    inner = "" if str(worktree.inner) == "." else f"{worktree.inner}/"
    own = (f"{inner}{TASK}", f"{inner}{READING}/")
    strangers = [name for name in worktree.strangers(desk.name) if not name.startswith(own)]
    if strangers:
        raise Stopped(f"the agent changed more than {desk.name}: {', '.join(strangers[:5])}")


def _run(command: Command, folder: Path, log: Path, deadline: float) -> int:
    """Its exit code; it and all that it started end at the deadline."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            shlex.split(command.line),
            cwd=folder,
            env=clean(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return -int(signal.SIGKILL)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
