"""How does a family come into a workspace? Read, tried with what is there, written, judged, committed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptw.agent import begin, judging, origin, outside, prompt, replay
from ptw.agent.conversation import Conversation, Entry
from ptw.agent.desk import TOOLS, Desk
from ptw.agent.judging import Verdict
from ptw.agent.llm import MOST_OUTPUT, Llm, missing_keys, price_of
from ptw.agent.loop import Accepted, Asked, Limits, Loop, Stopped, keep_draft, restore
from ptw.agent.origin import Origin
from ptw.agent.reading.pages import Page
from ptw.agent.wish import Wish, of_settings, refuse, refuse_name
from ptw.agent.worktree import Worktree
from ptw.errors import PtwError
from ptw.runs import lock, record
from ptw.runs.origin import versions
from ptw.runs.record import RunRecord
from ptw.workspace import rooms
from ptw.workspace.manifest import AgentEntry

KIND = "add-model"
RECORDING = "recording.jsonl"
Tell = Callable[[Entry], None]


@dataclass(frozen=True)
class Outcome:
    """`branch` and `commit` of an accepted port; else `why_not`."""

    run: str
    branch: str = ""
    commit: str = ""
    why_not: str = ""


def add_model(root: Path, wish: Wish, tell: Tell) -> Outcome:
    """A new run. PtwError for what the user can mend; a port that is not accepted is an Outcome."""
    refuse(root, wish)
    source = origin.find(wish.source, wish.revision, root)
    plan = {
        "kind": KIND,
        "settings": wish.as_settings(),
        "model_type": source.model_type,
        "table": dict(source.table),
    }
    # what is wrong with who replies, or with the repository, is said before anything is made
    if wish.recording is not None:
        replay.Recorded(wish.recording, source.model_type)
    elif wish.agent.command:
        outside.refuse_unknown(wish.agent.command)
    else:
        price_of(str(wish.agent.llm), wish.agent)
    worktree = Worktree(root, "unused")
    run = record.create(root, f"add-{wish.name}", plan=plan, commit=worktree.commit, versions=versions())
    return _work(root, run, wish, source, tell)


def resumable(
    root: Path, name: str, declared: AgentEntry, given: Mapping[str, Any]
) -> tuple[RunRecord, Wish]:
    """A run that was killed or stopped, and what it goes on with.

    `given` comes before what was given when it began, and that before what workspace.toml declares.
    """
    run = record.open_run(root, name)
    if run.plan.get("kind") != KIND:
        raise PtwError(f"--resume {name}: this run trains; `ptw train {run.recipe} --resume` goes on with it")
    if run.state == "done":
        raise PtwError(f"--resume {name}: its port was accepted")
    return run, of_settings(run.plan["settings"], declared, given)


def resume(root: Path, run: RunRecord, wish: Wish, tell: Tell) -> Outcome:
    """Go on; nothing that was paid for is asked again."""
    source = origin.find(wish.source, wish.revision or run.plan["table"].get("revision"), root)
    plan = {**run.plan, "settings": wish.as_settings()}
    running = record.change(run.folder, state="running", message=None, plan=plan)
    return _work(root, running, wish, source, tell)


def preview(root: Path, wish: Wish) -> str:
    """What would be read, the first prompt, and what an LLM that is named would cost; nobody is asked."""
    refuse_name(root, wish)
    source = origin.find(wish.source, wish.revision, root)
    read = begin.read(root, source.model_type)
    first = begin.first_prompt(_desk(root, source, read.pages, wish), None)
    lines = []
    if file := rooms.files(root, "models").get(source.model_type):
        lines.append(f"{file} is a port of {source.model_type}: that is judged, and nobody is asked")
    lines += [f"{page.tokens:7d} tokens  {page.name}" for page in read.pages]
    lines.append(f"{sum(page.tokens for page in read.pages):7d} tokens in all")
    lines += [f"likeness {one.likeness:.2f}  {one.port.model_type}" for one in read.neighbours[:5]]
    if wish.agent.llm and wish.recording is None and not wish.agent.command:
        price = price_of(wish.agent.llm, wish.agent)
        if missing := missing_keys(wish.agent.llm, wish.agent.api_base):
            lines.append(missing)
        asked = price.most(first) - MOST_OUTPUT * price.output
        lines.append(
            f"first prompt: ${asked:.3f}, and at most ${MOST_OUTPUT * price.output:.3f} for its reply"
        )
    return "\n".join([*lines, "", *(f"--- {one['role']}\n{one['content']}" for one in first)])


def _work(root: Path, run: RunRecord, wish: Wish, source: Origin, tell: Tell) -> Outcome:
    talk = Conversation.opened(run.folder)
    worktree = Worktree(root, run.name, run.commit)
    with lock.held(run.folder, "driver"):
        try:
            llm = _llm(wish, source, talk, tell)
            worktree.open()
            accepted = _ported(root, wish, source) or _written(run, wish, source, worktree, talk, llm, tell)
            outcome = _commit(run, wish, source, worktree, accepted, talk)
            record.change(run.folder, state="done", message=f"{outcome.branch} {outcome.commit[:10]}")
        except Stopped as stopped:
            record.change(run.folder, state="stopped", message=str(stopped))
            outcome = Outcome(run.name, why_not=str(stopped))
        except KeyboardInterrupt:
            record.change(run.folder, state="stopped", message="interrupted")
            raise
        except BaseException as error:
            record.change(run.folder, state="failed", message=f"{type(error).__name__}: {error}"[:2000])
            raise
        finally:
            worktree.close()
            _record(root, run, wish, source, talk)
        tell({"kind": "event", "text": outcome.why_not or f"committed on {outcome.branch}"})
    return outcome


def _ported(root: Path, wish: Wish, source: Origin) -> Accepted | None:
    """By the port that the workspace has of this family; None where it has none, Stopped where it fails."""
    file = rooms.files(root, "models").get(source.model_type)
    if file is None:
        return None
    text = file.read_text(encoding="utf-8")
    verdict = judging.accept(root, source.model_type, text, source.checkpoint)
    if not verdict.passed:
        raise Stopped(f"{file}: there is a port of {source.model_type}, and acceptance {verdict.brief}")
    return Accepted(text, verdict)


def _written(
    run: RunRecord,
    wish: Wish,
    source: Origin,
    worktree: Worktree,
    talk: Conversation,
    llm: Asked | None,
    tell: Tell,
) -> Accepted:
    """By an accepted port that fits, by the LLM, or where there is none by the agent's command."""

    def say(text: str) -> None:
        tell(talk.append("event", text=text))

    read = begin.read(worktree.root, source.model_type)
    say(str(read))
    desk = _desk(worktree.root, source, read.pages, wish)
    if talk.of("prompt"):
        restore(talk, desk)
    else:
        warmed = begin.warm_start(read, desk, lambda text: say(f"warm start: {text}"))
        if isinstance(warmed, Accepted):
            return warmed
        first = begin.first_prompt(desk, warmed)
        digests = prompt.digests(first, [tool.schema for tool in TOOLS])
        tell(talk.append("prompt", messages=first, digests=digests, draft=keep_draft(talk, desk)))
    limits = Limits(wish.agent.budget_usd, wish.agent.max_steps, wish.agent.max_minutes)
    if llm is None:
        said = str(talk.of("prompt")[0]["messages"][1]["content"]).split("\n\n<page ")[0]
        command = outside.Command(str(wish.agent.command), wish.agent.environment, limits.max_minutes)
        return outside.work(command, worktree, desk, said, talk, tell)
    if isinstance(llm, replay.Recorded) and (changed := llm.follow(talk)):
        say(f"since it was recorded the prompt changed: {', '.join(changed)}")
    return Loop(talk, desk, llm, limits, tell, _minutes(talk)).run()


def _desk(root: Path, source: Origin, read: Sequence[Page], wish: Wish) -> Desk:
    def accept(text: str) -> Verdict:
        return judging.accept(root, source.model_type, text, source.checkpoint)

    return Desk(source.model_type, root, read, accept, wish.agent.max_submissions)


def _llm(wish: Wish, source: Origin, talk: Conversation, tell: Tell) -> Asked | None:
    """Who replies; None where a command works by itself. An LLM without a price ends it here."""
    if wish.recording is not None:
        return replay.Recorded(wish.recording, source.model_type)
    if wish.agent.command:
        return None

    def say(text: str) -> None:
        tell(talk.append("event", text=text))

    name = str(wish.agent.llm)
    if missing := missing_keys(name, wish.agent.api_base):
        say(f"{missing}, so that only a port that is there and fits can be accepted")
    return Llm(name, price_of(name, wish.agent), wish.agent.api_base, tell=say)


def _record(root: Path, run: RunRecord, wish: Wish, source: Origin, talk: Conversation) -> None:
    """The conversation, to be replayed; of a recording's replay there is one already."""
    agent = wish.agent
    if wish.recording is None and agent.llm and not agent.command:
        ports = list(rooms.files(root, "models"))
        about = (agent.llm, price_of(agent.llm, agent), ports, agent.budget_usd)
        replay.write(replay.record(talk, source.model_type, *about), run.folder / RECORDING)


def _commit(
    run: RunRecord, wish: Wish, source: Origin, worktree: Worktree, accepted: Accepted, talk: Conversation
) -> Outcome:
    file = f"models/{source.model_type}.py"
    message = _message(run, wish, source, accepted, talk)
    branch, commit = worktree.commit_port(wish.name, source.table, file, accepted.text, message)
    return Outcome(run.name, branch, commit)


def _message(run: RunRecord, wish: Wish, source: Origin, accepted: Accepted, talk: Conversation) -> str:
    report = accepted.verdict.report
    tokens = talk.tokens
    by = wish.agent.command if wish.agent.command and not wish.recording else wish.agent.llm
    if wish.recording is not None:
        by = f"a recording of {replay.Recorded(wish.recording, source.model_type).llm}"
    told = [f"Run: {run.name}", f"Acceptance: seed {report['seed']}, {report['ports'][0]['cases']} cases"]
    if talk.steps:
        cost = f"{tokens['input']} tokens in, {tokens['output']} out, ${talk.usd:.2f}"
        told.append(f"Written by: {by}, {talk.steps} replies, {cost}")
    elif by and talk.of("prompt"):
        told.append(f"Written by: {by}")
    else:
        told.append("Written by: nobody, an accepted port fits")
    told += [f"Refused: {text}" for text in accepted.verdict.refused]
    return f"Port {source.model_type}, as the gate accepted it\n\n" + "\n".join(told) + "\n"


def _minutes(talk: Conversation) -> float:
    """What the run took before it was killed or stopped."""
    return sum(float(entry.get("seconds", 0.0)) for entry in talk.entries) / 60
