"""Which command brings a new family into a workspace? An agent writes the port, the gate decides."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptw.cli.speaking import as_json, opened, print_json
from ptw.errors import PtwError

if TYPE_CHECKING:
    from ptw.agent.add_model import Outcome


@click.command(name="add-model")
@click.argument("name", required=False)
@click.option(
    "--hf", "source", metavar="SOURCE", help="A Hub id, a checkpoint's folder, or an architecture's name."
)
@click.option("--revision", help="Of a Hub id: the full commit. Default: the newest.")
@click.option("--llm", metavar="MODEL", help="Who writes the port, as litellm names it: anthropic/<model>.")
@click.option("--api-base", metavar="URL", help="Of an OpenAI-compatible endpoint of your own.")
@click.option("--budget-usd", type=click.FloatRange(min=0, min_open=True), help="What the run may cost.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Replies of the LLM.")
@click.option(
    "--max-minutes", type=click.FloatRange(min=0, min_open=True), help="Minutes that the run may take."
)
@click.option("--agent-command", metavar="COMMAND", help="A coding agent to write it instead: 'claude -p'.")
@click.option(
    "--agent-env", metavar="NAME", multiple=True, help="A variable that this agent needs; it sees no others."
)
@click.option(
    "--replay",
    "recording",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Replies of a recorded run.",
)
@click.option("--resume", "resumed", metavar="RUN", help="Go on with a run that was killed or stopped.")
@click.option("--dry-run", is_flag=True, help="Print what would be read, the first prompt and its price.")
@as_json
def add_model(
    name: str | None,
    source: str | None,
    revision: str | None,
    llm: str | None,
    api_base: str | None,
    budget_usd: float | None,
    max_steps: int | None,
    max_minutes: float | None,
    agent_command: str | None,
    agent_env: tuple[str, ...],
    recording: Path | None,
    resumed: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Port a model family: an LLM writes, the gate decides.

    An accepted port is one commit on a branch of its own, ptw/add-NAME: models/<model_type>.py, and
    [models.NAME] in workspace.toml. Else nothing changes, and `ptw runs show` tells how far it came.
    Defaults stand in [agent].
    """
    if resumed is None and (name is None or source is None):
        raise click.UsageError("it takes NAME and --hf SOURCE, or --resume RUN")
    if resumed is not None and (name or source or recording or dry_run):
        raise click.UsageError(
            "--resume RUN takes limits and an LLM, and nothing else: the run knows its family"
        )
    workspace = opened()
    flags: dict[str, Any] = {"llm": llm, "api_base": api_base, "environment": list(agent_env) or None}
    # an LLM that is named here is meant, and not the command of workspace.toml
    flags |= {"command": agent_command or (None if llm is None else "")}
    flags |= {"budget_usd": budget_usd, "max_steps": max_steps, "max_minutes": max_minutes}
    given = {key: value for key, value in flags.items() if value is not None}
    from rich.console import Console

    from ptw.agent import add_model as adding
    from ptw.agent.view import Live
    from ptw.agent.wish import Wish, agent_of

    if resumed is not None:
        run, wish = adding.resumable(workspace.root, resumed, workspace.agent, given)
    else:
        assert name is not None
        assert source is not None
        wish = Wish(name, source, revision, agent_of(workspace.agent, given), recording, given)
    if dry_run:
        click.echo(adding.preview(workspace.root, wish))
        return
    with Live(Console(stderr=True), wish.agent.budget_usd) as live:
        if resumed is not None:
            outcome = adding.resume(workspace.root, run, wish, live.tell)
        else:
            outcome = adding.add_model(workspace.root, wish, live.tell)
    said(outcome, as_json)


def said(outcome: "Outcome", as_json: bool) -> None:
    """The branch, or what the run came to as JSON; a port that was not accepted is a failure."""
    if as_json:
        print_json(dataclasses.asdict(outcome))
    elif outcome.branch:
        click.echo(outcome.branch)
    if outcome.why_not:
        raise PtwError(
            f"no port was accepted: {outcome.why_not}; `ptw runs show {outcome.run}` tells how far it came"
        )
    click.echo(f"accepted: git merge {outcome.branch}", err=True)
